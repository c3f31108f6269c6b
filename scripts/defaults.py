"""Reads what a task's default settings reach, by the records of the study `defaults`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean

import tasks
from fpt.bodies import SHIPPED, weights_digest
from fpt.config import ABSENT, Config
from fpt.files import sha256
from fpt.task import Task
from scripts.recorded import RECORDS, merit

# What a task's defaults are shown for: the language body, a random one, and one that is trained.
CONDITIONS = {"frozen": {"load": "body"}, "random": {"load": "none"},
              "trained": {"load": "none", "train": "all"}}


@dataclass(frozen=True)
class Expected:
    """Holds what runs on record reached under a task's default settings: means over their seeds."""

    accuracy: float  # on test
    lr: float
    floor: float  # the best trivial predictor's, on the same examples
    minutes: float


def expected(task: type[Task], condition: str = "frozen") -> Expected | None:
    """Reads the results on record of a task's laptop preset under one of CONDITIONS.

    The frozen language body is shown at the preset's learning rate; the others at the one of those
    on record that is best on validation for their first seed.  Returns None where no run of these
    settings is on record.
    """
    wanted = Config.preset(task(), **CONDITIONS[condition]).record()
    weights = SHIPPED / wanted["body"] / "model.safetensors"
    there = wanted["load"] != "none" and weights.is_file()
    wanted |= {"checkpoint": weights_digest([sha256(weights)]) if there else None}
    # The geometry is filled in when a run is prepared, and the means are over seeds.
    compared = wanted.keys() - {"geometry", "seed"} - ({"lr"} if condition != "frozen" else set())
    try:
        lines = [json.loads(line) for line in (RECORDS / "defaults.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return None
    same = lambda config: all(config.get(name) == wanted[name] for name in compared)
    found = [line for line in lines if same(ABSENT | line["config"])]
    if not found:
        return None
    first = min(line["config"]["seed"] for line in found)
    lr = max((line for line in found if line["config"]["seed"] == first), key=merit)["config"]["lr"]
    results = [line["result"] for line in found if line["config"]["lr"] == lr]
    floors = [value for name, value in results[0]["floors"].items() if "/" not in name]
    return Expected(
        fmean(result["test"]["accuracy"] for result in results), lr, max(floors),
        fmean(result["seconds"] / result["runs_in_stack"] for result in results) / 60)


def table() -> str:
    """Lists the tasks, their default settings and the results on record, as a markdown table."""
    rows = [("task", "tokens", "batch", "steps", "floor", *CONDITIONS, "min")]
    for name in tasks.TASKS:
        config = Config.preset(tasks.find(name)())
        known = [expected(tasks.find(name), condition) for condition in CONDITIONS]
        any_known = next((one for one in known if one), None)
        figures = (any_known and f"{any_known.floor:.3f}",
                   *(one and f"{one.accuracy:.3f} {_short(one.lr)}" for one in known),
                   any_known and f"{any_known.minutes:.1f}")
        rows.append((name, str(config.task.interface.tokens), str(config.batch), str(config.steps),
                     *(figure or "-" for figure in figures)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["|".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "|".join("-" * width for width in widths), *lines[1:]])


def _short(lr: float) -> str:
    """Writes a learning rate as 3e-3."""
    return f"{lr:.0e}".replace("e-0", "e-")
