"""Writes one page over all runs in a folder: what each is, what it came to, and their learning curves over each other.

The files are read here; how they are shown is said in templates/index*.
"""

from __future__ import annotations

import math
import os
import shlex
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
COLUMNS = ("task", "body", "birth", "load", "train", "lr", "seed")  # settings that every run has, each a column of its own
STATUSES = ("finished", "diverged", "unfinished", "damaged")
DIGITS = 6  # of an accuracy
ALL = ""  # the part of the answers that is all of them


def write(folder: Path, target: Path | None = None) -> Path:
    """Writes the page over the runs in `folder` to `target`, or to index.html in the folder, and returns where it is.

    Raises UserError where there is no such folder, no run in it, or the page cannot be written.
    """
    target = target or folder / NAME
    found = read(folder)
    for run in found:
        page = folder / run["name"] / "page.html"
        if page.is_file():
            run["page"] = quote(os.fsencode(os.path.relpath(page, target.parent)))
        else:
            run["command"] = f"python -m scripts.page {shlex.quote(os.path.join(shareable(folder), run['name']))}"
    for run in found:
        run["name"] = _readable(run["name"])
    data = {"runs": found, "columns": COLUMNS, "statuses": STATUSES, "colours": COLOURS}
    counted = [(status, sum(run["status"] == status for run in found)) for status in STATUSES]
    page = fill("index.html.j2", folder=_readable(shareable(folder)), data=data,
                counted=[(status, count) for status, count in counted if count])
    write_whole(target, page.encode())
    return target


def read(folder: Path) -> list[dict[str, Any]]:
    """What the page tells of each run in a folder, in order of their names.  Raises UserError where there is none."""
    from fpt.records import CONFIG

    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name the folder of a run, or one that holds runs")
    folders = [path for path in sorted(folder.iterdir()) if os.path.exists(path / CONFIG)]
    if not folders:
        raise UserError(f"no run in {folder}; name the folder of a run, or one that holds runs, as --out of the training "
                        "command does")
    found = [_read(path) for path in folders]
    groups: dict[str, int] = {}  # what runs that differ by their seed alone have in common -> its number
    for run in found:
        run["group"] = groups.setdefault(run.pop("identity"), len(groups))
    _tell_apart(found)
    return found


def _read(folder: Path) -> dict[str, Any]:
    """One run; of a damaged one, what its configuration still says, and why the rest cannot be read."""
    from fpt.records import CONFIG, RESULT, read_curve, read_json, summary

    run = {"name": folder.name, "settings": {}, "status": "damaged", "identity": folder.name, "steps": [], "parts": {},
           "test": None, "floors": {}}
    try:
        config = ABSENT | read_json(folder / CONFIG)
        run["settings"] = _settings(config)
        finished = (folder / RESULT).is_file()
        whole = summary(folder) if finished else {"config": config, "curve": read_curve(folder), "result": {}}
        return run | _outcome(whole) | {"identity": recorded.identity(whole, ("seed",))}
    except UserError as error:
        why = str(error)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        why = f"it is not a run ({type(error).__name__}: {error})"
    return run | {"why": " ".join(why.replace(f"{folder}{os.sep}", "").replace(str(folder), "the run").split())}


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as numbers and texts by name, the sizes of the task among them; any JSON object has some."""
    sizes = config.get("sizes")
    told = config | (sizes if isinstance(sizes, dict) else {})
    told = {name: value for name, value in told.items() if name not in recorded.UNTOLD | {"sizes"}}
    if isinstance(told.get("body"), str):
        told["body"] = Path(told["body"]).name
    plain = lambda value: value is None or isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))
    return {name: value if plain(value) else str(value) for name, value in told.items()}


def _outcome(run: recorded.Run) -> dict[str, Any]:
    """How a run went: its curve for each part of the answers, and the result if it has one."""
    scores = [line["validation"] for line in run["curve"]]
    parts = dict.fromkeys(part for score in scores for part in score.get("slices", {}))
    told = {
        "status": "unfinished",
        "steps": [int(line["step"]) for line in run["curve"]],
        "parts": {ALL: [_accuracy(score["accuracy"]) for score in scores]}
                 | {part: [_accuracy(score["slices"].get(part)) for score in scores] for part in parts},
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
    """Leaves each run, beside its columns, the settings in which it differs from another run of its task.

    `words` says the columns as a legend does, which need not say what the name of a body says by itself.
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
        run["words"] = {name: recorded.word(name, settings[name]) for name in COLUMNS if name in settings}


def _readable(name: str) -> str:
    """A file's name as text; bytes that are none are shown as such."""
    return os.fsencode(name).decode(errors="replace")
