"""Writes one page over all runs in a folder: their settings, their results, and their learning
curves over each other.

The files are read here; templates/index* say how they are shown.
"""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fpt.config import ABSENT
from fpt.errors import UserError
from fpt.files import write_whole
from scripts import recorded
from scripts.figure import COLOURS
from scripts.page_frame import fill, shareable

NAME = "index.html"
COLUMNS = ("task", "body", "birth", "load", "train", "lr", "seed")  # settings that are columns
STATUSES = ("finished", "diverged", "unfinished", "damaged")
DIGITS = 6  # of an accuracy
ALL = ""  # the name of the part of the answers that is all of them


def write(folder: Path, target: Path | None = None) -> Path:
    """Writes the page over the runs in `folder` to `target`, or to index.html in the folder, and
    returns its path.

    Raises UserError for a folder without runs, or where the page cannot be written.
    """
    target = target or folder / NAME
    found = read(folder)
    for run in found:
        page = folder / run["name"] / "page.html"
        if page.is_file():
            run["page"] = quote(os.fsencode(os.path.relpath(page, target.parent)))
        else:
            path = os.path.join(shareable(folder), run["name"])
            run["command"] = f"python -m scripts.page {shlex.quote(path)}"
        run["name"] = _readable(run["name"])
    data = {"runs": found, "columns": COLUMNS, "statuses": STATUSES, "colours": COLOURS}
    counted = Counter(run["status"] for run in found)
    page = fill("index.html.j2", folder=_readable(shareable(folder)), data=data,
                counted=[(status, counted[status]) for status in STATUSES if counted[status]])
    write_whole(target, page.encode())
    return target


def read(folder: Path) -> list[dict[str, Any]]:
    """Reads the runs in a folder, in order of their names.  Raises UserError if there are none."""
    from fpt.records import CONFIG

    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name the folder of a run, or one that holds runs")
    folders = [path for path in sorted(folder.iterdir()) if os.path.exists(path / CONFIG)]
    if not folders:
        raise UserError(f"no run in {folder}; name the folder of a run, or one that holds runs, as "
                        "--out of the training command does")
    found = [_read(path) for path in folders]
    groups: dict[str, int] = {}  # runs that differ by their seed alone share a number
    for run in found:
        run["group"] = groups.setdefault(run.pop("identity"), len(groups))
    _tell_apart(found)
    return found


def _read(folder: Path) -> dict[str, Any]:
    """Reads one run; of a damaged one, what its configuration still says, and why the rest cannot
    be read."""
    from fpt.records import CONFIG, RESULT, read_curve, read_json, summary

    run = {"name": folder.name, "settings": {}, "status": "damaged", "identity": folder.name,
           "steps": [], "parts": {}, "test": None, "floors": {}}
    try:
        config = ABSENT | read_json(folder / CONFIG)
        run["settings"] = _settings(config)
        if (folder / RESULT).is_file():
            whole = summary(folder)
        else:
            whole = {"config": config, "curve": read_curve(folder), "result": {}}
        return run | _outcome(whole) | {"identity": recorded.identity(whole, ("seed",))}
    except UserError as error:
        why = str(error)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"it is not a run ({type(error).__name__}: {error})"
    why = why.replace(f"{folder}{os.sep}", "").replace(str(folder), "the run")
    return run | {"why": " ".join(why.split())}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings as numbers and texts by name, the task's sizes among them; `config` may
    be any JSON object."""
    sizes = config.get("sizes")
    told = config | (sizes if isinstance(sizes, dict) else {})
    told = {name: value for name, value in told.items() if name not in recorded.UNTOLD | {"sizes"}}
    if isinstance(told.get("body"), str):
        told["body"] = Path(told["body"]).name
    plain = lambda value: (math.isfinite(value) if isinstance(value, float)
                           else value is None or isinstance(value, int | str))
    return {name: value if plain(value) else str(value) for name, value in told.items()}


def _outcome(run: recorded.Run) -> dict[str, Any]:
    """Returns the curve of a run for each part of the answers, and the result if it has one."""
    scores = [line["validation"] for line in run["curve"]]
    parts = dict.fromkeys(part for score in scores for part in score.get("slices", {}))
    told = {
        "status": "unfinished",
        "steps": [int(line["step"]) for line in run["curve"]],
        "parts": {ALL: [_accuracy(score["accuracy"]) for score in scores], **{
            part: [_accuracy(score["slices"].get(part)) for score in scores] for part in parts}},
    }
    if result := run["result"]:
        floors: dict[str, dict[str, float]] = {}
        for name, value in result["floors"].items():
            part, _, predictor = name.rpartition("/")
            if value is not None:
                floors.setdefault(part, {})[predictor] = _accuracy(value)
        told |= {"status": "diverged" if result.get("status") == "diverged" else "finished",
                 "test": _accuracy(result["test"]["accuracy"]), "floors": floors}
    return told


def _accuracy(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"an accuracy of {value}")
    return None if value is None else round(float(value), DIGITS)


def _tell_apart(runs: list[dict[str, Any]]) -> None:
    """Replaces the settings of each run, in place, by those that the index shows as COLUMNS.

    Others in which a run differs from another run of its task go under its `also`.  Its `words` are
    the columns as a legend writes them: see `recorded.word`.
    """
    values: dict[tuple[Any, str], set[Any]] = {}
    for run in runs:
        for name, value in run["settings"].items():
            values.setdefault((run["settings"].get("task"), name), set()).add(value)
    for run in runs:
        settings = run.pop("settings")
        run |= {name: settings.get(name) for name in COLUMNS}
        run["also"] = {name: value for name, value in settings.items()
                       if name not in COLUMNS and len(values[settings.get("task"), name]) > 1}
        run["words"] = {name: recorded.word(name, settings[name])
                        for name in COLUMNS if name in settings}


def _readable(name: str) -> str:
    """Turns a file's name into text; bytes that are no text become marks."""
    return os.fsencode(name).decode(errors="replace")
