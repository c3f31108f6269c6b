"""Reads what a task's default settings reach, by the records of the study `defaults`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import tasks
from fpt.config import Config
from scripts import recorded, studies
from scripts.ledger import Ledger
from scripts.studies import Cell

STUDY, TRACK = "defaults", "mini"
CONDITIONS = ("frozen", "random", "trained")  # of the study
Account = tuple[dict[tuple[str, str], Cell], Ledger]  # the study's cells, and what is on record


@dataclass(frozen=True)
class Expected:
    """Holds what runs on record reached under a task's default settings: means over their seeds."""

    accuracy: float  # on test
    lr: float
    floor: float  # the best trivial predictor's, on the same examples
    minutes: float  # of a run; of runs that were trained at once, each one's share


@cache
def account() -> Account:
    """Reads the project's own records of the study, once."""
    return read(recorded.RECORDS)


def read(records: Path) -> Account:
    """Reads the cells of the study, by task and condition, and what a folder of records has of it.

    There are no cells where the package was installed without its results.
    """
    cells = studies.study(STUDY).cells(TRACK) if STUDY in studies.names() else []
    return ({(cell.task, cell.condition.name): cell for cell in cells},
            Ledger(records / f"{STUDY}.jsonl"))


def expected(task: str, condition: str = "frozen", among: Account | None = None
             ) -> Expected | None:
    """Reads the results on record of a task's laptop preset under a condition of the study.

    among: where they are looked for; None means the project's own records.  Returns None where no
    run of it is on record that counts.
    """
    cells, known = among or account()
    runs = known.counted(cells[task, condition]) if (task, condition) in cells else []
    if not runs:
        return None
    results = [run["result"] for run in runs]
    return Expected(
        fmean(result["test"]["accuracy"] for result in results), runs[0]["config"]["lr"],
        recorded.best_floor(runs[0])[1],
        fmean(result["seconds"] / result["runs_in_stack"] for result in results) / 60)


def table(among: Account | None = None) -> str:
    """Lists the tasks, their default settings and the results on record, as a markdown table.

    among: where results are looked for; None means the project's own records.
    """
    rows = [("task", "tokens", "batch", "steps", "floor", *CONDITIONS, "min")]
    for name in tasks.TASKS:
        config = Config.preset(tasks.find(name)())
        found = [expected(name, condition, among) for condition in CONDITIONS]
        any_known = next((one for one in found if one), None)
        figures = (any_known and f"{any_known.floor:.3f}",
                   *(one and f"{one.accuracy:.3f} {_short(one.lr)}" for one in found),
                   any_known and f"{any_known.minutes:.1f}")
        rows.append((name, str(config.task.interface.tokens), str(config.batch), str(config.steps),
                     *(figure or "-" for figure in figures)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["|".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "|".join("-" * width for width in widths), *lines[1:]])


def _short(lr: float) -> str:
    """Writes a learning rate as 3e-3."""
    return f"{lr:.0e}".replace("e-0", "e-")
