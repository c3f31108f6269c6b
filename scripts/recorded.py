"""Recorded runs: what tells them apart, and the rate that validation chooses for each condition."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fpt.config import ABSENT
from fpt.errors import UserError, nearest
from scripts.command import RECORDS

Run = dict[str, Any]  # a line of a study: see `fpt.records.summary`
UNTOLD = {"geometry", "checkpoint", "task_file"}  # of a configuration: what the names of body and task stand for
USUAL = {"birth": "weights", "load": "body"}  # what the name of a body says by itself
ATTENTION = "attention.json"  # what `scripts.attention` leaves in a run's folder
PARTS = ("run", "config", "curve", "result")  # of a run


def study(name: str, task: str | None = None) -> list[Run]:
    """The runs of a study, or those of one task in it.  Raises UserError where there is no such study or task."""
    file = RECORDS / f"{name}.jsonl"
    if not file.is_file():
        raise nearest(name, [path.stem for path in RECORDS.glob("*.jsonl")], "study")
    return of_task(read(file), task)


def read(file: Path) -> list[Run]:
    """Reads the runs of a file of records.

    Raises UserError naming the line that is no run, that was changed since it was recorded, or that repeats a run.
    """
    from fpt.records import check

    found: dict[str, Run] = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            run = json.loads(line)
            name, config, curve, result = (run[part] for part in PARTS)
            check(config, curve, result)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: {error}; collect the study again") from None
        if name in found:
            raise UserError(f"{file}, line {number} holds {name} a second time; remove one of the two")
        found[name] = run
    return list(found.values())


def looked_into(folder: Path, trainable: str) -> dict[str, Any] | None:
    """What `scripts.attention` found in the heads of a run; None where it has not looked at it, or at other parameters.

    trainable: the digest of the run's trained parameters.  Raises UserError where its file is damaged.
    """
    file = folder / ATTENTION
    try:
        found = json.loads(file.read_text())
        of = found["trainable"]
        _ = found["n"], found["split"], found["uniform"], [(line["step"], line["values"]) for line in found["measures"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}: {error}); make it again with python -m scripts.attention "
                        f"{folder}") from None
    return found if of == trainable else None


def of_task(runs: list[Run], task: str | None) -> list[Run]:
    """The runs of a task; all of them for None.  Raises UserError where there are none."""
    known = {run["config"]["task"] for run in runs}
    if task and task not in known:
        raise nearest(task, known, "task of these runs")
    return [run for run in runs if task in (None, run["config"]["task"])]


def settings(run: Run) -> dict[str, Any]:
    """The configuration of a run; what was no setting yet in its time is stated as it was then."""
    return ABSENT | run["config"]


def identity(run: Run, but: Iterable[str]) -> str:
    """All that makes a run what it is, its data and the content of its task's file too, but for some settings.

    Where a body lies does not matter, what it is does.
    """
    told = {name: value for name, value in settings(run).items() if name not in but}
    if told.get("geometry"):
        told.pop("body")
    if content := run["result"].get("task_file"):
        told["task_file"] = content
    return json.dumps([told, run["result"].get("data")], sort_keys=True)


def conditions(runs: list[Run], but: Iterable[str] = ("seed",)) -> dict[str, list[Run]]:
    """Runs by what tells them apart, in order of that, leaving out the settings `but`; each in order of seed and rate.

    A birth or a load is told with its body.  Task and body where there is nothing to tell apart.  Runs that differ in what
    has no word, such as bodies of one name and other weights, are told apart by a few digits of a digest.
    """
    said = lambda run, key: Path(run["config"][key]).name if key == "body" else settings(run).get(key)
    stated = sorted(set.union(*(set(settings(run)) for run in runs)) - UNTOLD - {*but})
    differ = [key for key in stated if len({json.dumps(said(run, key)) for run in runs}) > 1] or ["task", "body"]
    if USUAL.keys() & differ:
        differ = sorted({*differ, "body"})

    def order(run: Run) -> list[tuple[float, str]]:
        values = ["" if USUAL.get(key) == said(run, key) else said(run, key) for key in differ]
        return [(float(value), "") if isinstance(value, (int, float)) else (math.inf, str(value)) for value in values]

    alike: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: [order(run), run["config"]["seed"], run["config"]["lr"]]):
        alike.setdefault(identity(run, but), []).append(run)
    labels = {what: ", ".join(filter(None, (word(key, said(group[0], key)) for key in differ))) for what, group in alike.items()}
    shared = {label for label, count in Counter(labels.values()).items() if count > 1}
    mark = lambda what, label: f"{label} {hashlib.sha256(what.encode()).hexdigest()[:6]}" if label in shared else label
    return {mark(what, labels[what]): group for what, group in alike.items()}


def word(setting: str, value: Any) -> str:
    """A setting as a legend says it; nothing where the name of a body says it by itself."""
    if setting == "load" and value == "none":
        return "random"
    if USUAL.get(setting) == value:
        return ""
    return f"{value}" if setting in ("task", "body", "birth") else f"{setting} {value}"


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
