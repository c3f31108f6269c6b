"""Reads recorded runs, groups them by condition, and chooses a learning rate for each condition.

The runs of a condition differ by seed alone (or, where the rate is chosen, by seed and rate); its
label names what tells it apart from the others.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpt.config import ABSENT, FILES, FOUND, NEWER
from fpt.errors import UserError, nearest

Run = dict[str, Any]  # a line of a study: see `fpt.records.summary`
# Settings that the names of body and task stand for.
UNTOLD = {*FOUND, *FILES} - {"stream"}
RECORDS = Path(__file__).parent.parent / "results" / "records"
USUAL = {"birth": "weights", "load": "body"}  # settings that the name of a body implies
ATTENTION = "attention.json"  # written by `scripts.attention` to a run's folder
PARTS = ("run", "config", "curve", "result")  # of a run
NEAR = 0.01  # a run has converged where its accuracy is no further than this below its best


def study(name: str, task: str | None = None) -> list[Run]:
    """Reads a study's runs, or those of one task in it.  Raises UserError if there are none."""
    file = RECORDS / f"{name}.jsonl"
    if not file.is_file():
        raise nearest(name, [path.stem for path in RECORDS.glob("*.jsonl")], "study")
    return of_task(read(file), task)


def read(file: Path) -> list[Run]:
    """Reads the runs of a file of records.

    Raises UserError naming the line that is no run, that was changed since it was recorded, or that
    repeats a run.
    """
    from fpt.records import check

    found: dict[str, Run] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            run = json.loads(line.decode())
            name, config, curve, result = (run[part] for part in PARTS)
            check(config, curve, result)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: {error}; delete the line, and record its run "
                            "again with scripts.study or scripts.collect") from None
        if name in found:
            raise UserError(f"{file}, line {number} holds {name} a second time; remove one of the "
                            "two")
        found[name] = run
    return list(found.values())


def on_cpu(run: Run) -> bool:
    """Tells whether a CPU has trained a run: its name then follows the number of its cores."""
    return re.match(r"\d+ x ", run["result"]["device"]) is not None


def looked_into(folder: Path, trainable: str) -> dict[str, Any] | None:
    """Reads what `scripts.attention` found in the heads of a run; None if it has not measured these
    parameters.

    trainable: the digest of the run's trained parameters.  Raises UserError for a damaged file.
    """
    file = folder / ATTENTION
    try:
        found = json.loads(file.read_text())
        of = found["trainable"]
        _ = found["n"], found["split"], found["uniform"]
        _ = [(line["step"], line["values"]) for line in found["measures"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}); make it again with "
                        f"python -m scripts.attention {folder}") from None
    return found if of == trainable else None


def of_task(runs: list[Run], task: str | None) -> list[Run]:
    """Selects the runs of a task; None selects all.  Raises UserError where there are none."""
    known = {run["config"]["task"] for run in runs}
    if task and task not in known:
        raise nearest(task, known, "task of these runs")
    return [run for run in runs if task in (None, run["config"]["task"])]


def settings(run: Run) -> dict[str, Any]:
    """Returns the configuration of a run; what its record does not state, as older records lack
    newer settings, has the value that the run was in fact trained with."""
    return ABSENT | NEWER | run["config"]


def identity(run: Run, but: Iterable[str]) -> str:
    """Returns a text that identifies a run: its settings except those in `but`, its data, and the
    content of the user's own files that define its task or body.

    A body counts by its shape and weights, not by where it lies.
    """
    told = {name: value for name, value in settings(run).items() if name not in but}
    if told.get("geometry"):
        told.pop("body")
    if told.get("begins"):  # the stages before are in the name of its stream
        for name in ("start", "begins", "body_seed"):
            told.pop(name)
    told |= {name: run["result"][name] for name in FILES if run["result"].get(name)}
    return json.dumps([told, run["result"].get("data")], sort_keys=True)


def conditions(runs: list[Run], but: Iterable[str] = ("seed",)) -> dict[str, list[Run]]:
    """Groups runs that differ in the settings `but` alone, under labels that name what tells the
    groups apart.

    Groups are in the order of their settings, and the runs of each in that of seed and rate.  A
    label that states `birth` (how loaded parameters get their first values) or `load` (which are
    loaded) also states the body, and one that states rates of roles or earlier stages what is
    trained; where all runs are alike, task and body are the label.  Groups that would have one
    label, as with bodies of one name and other weights, get a few digits of a digest too.
    """
    def said(run: Run, key: str) -> Any:
        return Path(run["config"][key]).name if key == "body" else settings(run).get(key)

    stated = sorted(set.union(*(set(settings(run)) for run in runs)) - UNTOLD - {*but})
    differ = [key for key in stated if len({json.dumps(said(run, key)) for run in runs}) > 1]
    differ = differ or ["task", "body"]
    if USUAL.keys() & differ:
        differ = sorted({*differ, "body"})
    if {"rates", "stream"} & {*differ}:
        differ = sorted({*differ, "train"})

    def order(run: Run) -> list[tuple[float, str]]:
        values = ["" if USUAL.get(key) == said(run, key) else said(run, key) for key in differ]
        return [(float(value), "") if isinstance(value, (int, float)) else (math.inf, str(value))
                for value in values]

    alike: dict[str, list[Run]] = {}
    place = lambda run: [order(run), run["config"]["seed"], run["config"]["lr"]]
    for run in sorted(runs, key=place):
        alike.setdefault(identity(run, but), []).append(run)
    labels = {what: ", ".join(filter(None, (word(key, said(group[0], key)) for key in differ)))
              for what, group in alike.items()}
    count = Counter(labels.values())
    mark = lambda what: f" {hashlib.sha256(what.encode()).hexdigest()[:6]}"
    return {label + mark(what) * (count[label] > 1): alike[what] for what, label in labels.items()}


def word(setting: str, value: Any) -> str:
    """Writes a setting for a legend; returns "" for what the body's name implies: see USUAL."""
    if setting == "load" and value == "none":
        return "random"
    if USUAL.get(setting) == value or value in ([], ()):
        return ""
    if isinstance(value, list):
        value = " ".join(map(str, value))
    return f"{value}" if setting in ("task", "body", "birth", "stream") else f"{setting} {value}"


def chosen(runs: list[Run]) -> dict[str, list[Run]]:
    """Selects the runs of each condition at one rate: that of the best run on validation among
    those with the condition's first seed."""
    found = {}
    for label, alike in conditions(runs, ("seed", "lr")).items():
        first = min(run["config"]["seed"] for run in alike)
        best = max((run for run in alike if run["config"]["seed"] == first), key=merit)
        found[label] = [run for run in alike if run["config"]["lr"] == best["config"]["lr"]]
    return found


def converged_at(run: Run) -> int:
    """Returns the step of the first evaluation after training began at which a run's accuracy on
    validation is NEAR the best of these evaluations.

    The evaluation before the first step is left out: a run that is never better than there has
    learned nothing, and the evaluations cannot tell zero steps from fewer than lie between them.
    """
    trained = {line["step"]: line["validation"]["accuracy"] for line in run["curve"]
               if line["step"]}
    enough = max(trained.values()) - NEAR - 1e-9  # for sums that are not exact
    return min(step for step, accuracy in trained.items() if accuracy >= enough)


def training_accuracy(run: Run) -> float | None:
    """Returns a run's accuracy on the training batches before its best evaluation, under dropout;
    None where that is the evaluation before the first step."""
    best = next(line for line in run["curve"] if line["step"] == run["result"]["best_step"])
    return best["train"] and best["train"]["accuracy"]


def merit(run: Run) -> tuple[float, float]:
    """Returns what runs are ranked by: accuracy on validation, then loss, the lower the better."""
    best = run["result"]["validation"]
    return best["accuracy"], -math.inf if best["loss"] is None else -best["loss"]


def floors(result: dict[str, Any], part: str | None = None) -> dict[str, float]:
    """Returns the accuracy on test of each trivial predictor in a result, by its name: on all
    answers, or on those of the slice `part`."""
    named = {name.rpartition("/"): value for name, value in result["floors"].items()}
    return {predictor: value for (belongs, _, predictor), value in named.items()
            if belongs == (part or "") and value is not None}


def best_floor(run: Run) -> tuple[str, float]:
    """Finds the best trivial predictor of all answers: its name and its accuracy on test."""
    return max(floors(run["result"]).items(), key=lambda floor: floor[1])
