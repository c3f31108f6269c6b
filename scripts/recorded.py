"""Recorded runs: what tells them apart, and the rate that validation chooses for each condition."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpt.errors import nearest
from scripts.command import RECORDS

Run = dict[str, Any]  # a line of a study: see `fpt.records.summary`
UNTOLD = {"geometry", "checkpoint", "task_file"}  # of a configuration: what the names of body and task stand for
USUAL = {"birth": "weights", "load": "body"}  # what the name of a body says by itself


def study(name: str, task: str | None = None) -> list[Run]:
    """The runs of a study, or those of one task in it.  Raises UserError where there is no such study or task."""
    file = RECORDS / f"{name}.jsonl"
    if not file.is_file():
        raise nearest(name, [path.stem for path in RECORDS.glob("*.jsonl")], "study")
    return of_task([json.loads(line) for line in file.read_text().splitlines()], task)


def of_task(runs: list[Run], task: str | None) -> list[Run]:
    """The runs of a task; all of them for None.  Raises UserError where there are none."""
    known = {run["config"]["task"] for run in runs}
    if task and task not in known:
        raise nearest(task, known, "task of these runs")
    return [run for run in runs if task in (None, run["config"]["task"])]


def conditions(runs: list[Run], but: Iterable[str] = ("seed",)) -> dict[str, list[Run]]:
    """Runs by what tells them apart, in order of that, leaving out the settings `but`; each in order of seed and rate.

    A birth or a load is told with its body.  Task and body where there is nothing to tell apart.
    """
    said = lambda run, key: Path(run["config"][key]).name if key == "body" else run["config"].get(key)
    # What all runs state: records outlive the configurations of their time.
    stated = sorted(set.intersection(*(set(run["config"]) for run in runs)) - UNTOLD - {*but})
    differ = [key for key in stated if len({json.dumps(said(run, key)) for run in runs}) > 1] or ["task", "body"]
    if USUAL.keys() & differ:
        differ = sorted({*differ, "body"})

    def order(run: Run) -> list[tuple[float, str]]:
        values = ["" if USUAL.get(key) == said(run, key) else said(run, key) for key in differ]
        return [(float(value), "") if isinstance(value, (int, float)) else (math.inf, str(value)) for value in values]

    def word(run: Run, key: str) -> str:
        value = said(run, key)
        if key == "load" and value == "none":
            return "random"
        if USUAL.get(key) == value:
            return ""
        return f"{value}" if key in ("task", "body", "birth") else f"{key} {value}"

    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: [order(run), run["config"]["seed"], run["config"]["lr"]]):
        found.setdefault(", ".join(filter(None, (word(run, key) for key in differ))), []).append(run)
    return found


def chosen(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each condition at one rate: the one that is best on validation on the condition's first seed."""
    found = {}
    for label, alike in conditions(runs, ("seed", "lr")).items():
        first = min(run["config"]["seed"] for run in alike)
        best = max((run for run in alike if run["config"]["seed"] == first), key=merit)
        found[label] = [run for run in alike if run["config"]["lr"] == best["config"]["lr"]]
    return found


def validation(run: Run) -> float:
    """Accuracy on validation at the step that was best; -1 for a run that had none."""
    accuracy = run["result"]["validation"]["accuracy"]
    return -1.0 if accuracy is None else accuracy


def merit(run: Run) -> tuple[float, float]:
    """What validation chooses by: accuracy, and loss where several answer everything."""
    loss = run["result"]["validation"]["loss"]
    return validation(run), -math.inf if loss is None else -loss


def best_floor(run: Run) -> tuple[str, float]:
    """The best trivial predictor of all answers, and its accuracy on test."""
    floors = {name: value for name, value in run["result"]["floors"].items() if "/" not in name and value is not None}
    return max(floors.items(), key=lambda floor: floor[1])
