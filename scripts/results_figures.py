"""Lists the figures that follow from the records, and what each of them is drawn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpt.errors import nearest
from scripts import (
    attention_figure,
    attention_table,
    claims_figure,
    figure,
    recorded,
    results_drawing,
    results_tables,
    statistics,
    studies,
)
from scripts.claims import Claim
from scripts.claims_verdicts import Judged
from scripts.ledger import Ledger
from scripts.qualities import qualities
from scripts.recorded import Run
from scripts.results_tables import Numbers
from scripts.studies import Cell, Study

# The figures of a study that its file can ask for, and what each shows.
KINDS = {
    "curves": "accuracy on validation by training step",
    "rates": "accuracy on test by learning rate, over all runs on record",
    "bars": "accuracy on test, beside the papers' numbers",
    "steps": "the steps that runs take to come close to their best accuracy",
    "gain": "accuracy on test by the copying gain of the body, where that is known"}
FORMATS = ("svg", "png")
Runs = Mapping[tuple[str, str], Sequence[Run]]  # (task, condition) -> the runs that are shown
# Figures of bit memory from records that no study file asks for: the records, and what draws them.
OTHERS = {
    "copying": ("copying", lambda runs, *form: figure.draw(recorded.conditions(runs), "hidden",
                                                           *form)),
    "births": ("births", lambda runs, *form: figure.draw(recorded.chosen(runs), "hidden", *form)),
    "heads": ("attention", attention_figure.draw)}
# The source of all that draws: a figure is drawn again when this changes, as when its data do.
DRAWING = "".join(Path(module.__file__).read_text() for module in (
    attention_figure, attention_table, figure, recorded, results_drawing, statistics))
DRAWING_CLAIMS = "".join(Path(module.__file__).read_text() for module in (claims_figure, figure))
CLAIMS = "claims"  # the name of the figure of all claims


@dataclass(frozen=True)
class Figure:
    """Holds what a figure is drawn from, and the function that draws it.

    Its file holds the digest of what it was drawn from and of the code that drew it.  A file is up
    to date if the digest is, whatever its other bytes: these differ from one version of matplotlib
    to the next.
    """

    data: Any  # as JSON holds it
    draw: Callable[[Any, str, str], bytes]  # takes the data, the format and the digest
    drawing: str | None = None  # the code that draws it; None: that of studies' figures

    @property
    def digest(self) -> str:
        text = json.dumps(self.data, sort_keys=True) + (self.drawing or DRAWING)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def drawn(self, form: str) -> bytes:
        """Draws the figure as svg or png; returns the content of its file."""
        return self.draw(self.data, form, self.digest)

    def is_in(self, file: Path) -> bool:
        """Tells whether a file was drawn from the same data, by the same code."""
        return file.is_file() and self.digest.encode() in file.read_bytes()


def figures(folder: Path, track: str) -> dict[Path, Figure | None]:
    """Lists the files of all figures in a folder of results, those of studies at the sizes of a
    track.

    None stands for a file that must not be there: no study asks for the figure, or no record would
    be in it.  Raises UserError for a study that asks for an unknown figure.
    """
    found: dict[Path, Figure | None] = {}
    numbers = results_tables.papers(folder / "papers.json")
    for study in studies.on(track):
        if strange := [kind for kind in study.figures if kind not in KINDS]:
            raise nearest(strange[0], KINDS, f"figure in {studies.STUDIES / study.name}.toml")
        known = Ledger(folder / "records" / f"{study.name}.jsonl")
        for kind in KINDS:
            data = drawn_from(kind, study, track, known, numbers) if kind in study.figures else None
            for form in FORMATS:
                file = folder / "figures" / f"{study.name}-{kind}.{form}"
                found[file] = Figure(data, results_drawing.draw) if data else None
    for name, (records, draw) in OTHERS.items():
        file = folder / "records" / f"{records}.jsonl"
        runs = [run for run in (recorded.read(file) if file.is_file() else ())
                if run["config"]["task"] == "bit-memory"]
        found[folder / "figures" / f"{name}.svg"] = Figure(runs, draw) if runs else None
    return found


def of_claims(folder: Path, claims: Sequence[Claim], judged: Sequence[Judged]
              ) -> dict[Path, Figure | None]:
    """Lists the files of the figure of all claims, as `figures` does."""
    data = claims_figure.drawn_from(claims, judged)
    made = data and Figure(data, claims_figure.draw, DRAWING_CLAIMS)
    return {folder / "figures" / f"{CLAIMS}.{form}": made for form in FORMATS}


def shown(study: Study, figures: Collection[Path]) -> list[str]:
    """Writes the Markdown by which a page in results/tables shows the figures of a study.

    figures: the files of all figures.
    """
    names = {file.name for file in figures}
    return [f"![{study.name}: {what}](../figures/{name})" for kind, what in KINDS.items()
            if (name := f"{study.name}-{kind}.svg") in names]


def drawn_from(kind: str, study: Study, track: str, known: Ledger, numbers: Numbers
               ) -> dict[str, Any] | None:
    """Collects what a figure of a study is drawn from; None where no run of it is on record."""
    cells = study.cells(track)
    names = [condition.name for condition in study.conditions]
    notes, bodies = [], {}
    if kind == "gain":
        bodies = {name: {"gain": quality.gain, "pretraining": quality.pretraining}
                  for name, quality in qualities(cells, known.file.parent).items()}
        cells = [cell for cell in cells if cell.condition.name in bodies]
        if strange := [name for name in names if name not in bodies]:
            notes = [f"Not shown, as the body's copying gain is not known: {'; '.join(strange)}."]
    runs = {(cell.task, cell.condition.name): _shown(kind, cell, known) for cell in cells}
    panels = []
    for task in dict.fromkeys(cell.task for cell in cells):
        mine = {cell.condition.name: cell for cell in cells if cell.task == task}
        first = next((run for name in mine for run in runs[task, name]), None)
        if not first:
            continue
        usual = next(iter(mine.values())).usual
        panels.append({
            "task": task, "steps": usual.steps, "batch": usual.batch,
            "sizes": ", ".join(f"{key} {value}" for key, value in usual.task.settings().items()),
            "floor": recorded.best_floor(first)[1],
            "conditions": {name: _measured(kind, runs[task, name], cell, known)
                           | bodies.get(name, {})
                           for name, cell in mine.items() if runs[task, name]},
            "paper": {name: number["value"] / 100 for name, cell in mine.items() if kind == "bars"
                      if (number := numbers.get((study.section, cell.condition.paper, task)))}})
    if not panels:
        return None
    return {"kind": kind, "study": study.name, "question": study.question, "panels": panels,
            # All of the study's: a condition's place gives it its colour, whether others are there.
            "conditions": names, "notes": [*_notes(kind, cells, runs, known), *notes]}


def _shown(kind: str, cell: Cell, known: Ledger) -> list[Run]:
    """Lists the runs of a cell that a figure shows, as far as they are on record."""
    if kind != "rates":
        return known.counted(cell)
    rates = sorted({*cell.fixed, known.rate(cell)} - {None})
    return known.candidates(cell) + [run for rate in rates for run in known.at(cell, rate)]


def _measured(kind: str, runs: Sequence[Run], cell: Cell, known: Ledger) -> dict[str, Any]:
    """Reads off the runs of a cell what a figure shows of them."""
    test = [run["result"]["test"]["accuracy"] for run in runs]
    if kind == "curves":
        found = [{line["step"]: line["validation"]["accuracy"] for line in run["curve"]}
                 for run in runs]
        # A run that diverged has no later steps: a mean is of the same runs at each step.
        return {f"{step}": [one[step] for one in found]
                for step in sorted(set.intersection(*map(set, found)))}
    if kind == "rates":
        rates = [run["config"]["lr"] for run in runs]
        return {"chosen": known.rate(cell),
                "test": {f"{rate}": [value for value, lr in zip(test, rates) if lr == rate]
                         for rate in sorted(set(rates))}}
    if kind == "steps":
        return {"converged": [recorded.converged_at(run) for run in runs], "test": test}
    return {"test": test}


def _notes(kind: str, cells: Sequence[Cell], runs: Runs, known: Ledger) -> Iterator[str]:
    """Says what is missing in a figure, and which of its runs diverged."""
    tasks, there = ({place[part] for place, found in runs.items() if found} for part in (0, 1))
    if empty := dict.fromkeys(cell.task for cell in cells if cell.task not in tasks):
        yield f"Missing tasks: {', '.join(empty)}."
    lacking: dict[str, list[str]] = {}  # condition -> the tasks in the figure that it lacks
    remarks: dict[str, dict[str, list[str]]] = {}  # what is said -> condition -> on which tasks
    for cell in cells:
        name, found = cell.condition.name, runs[cell.task, cell.condition.name]
        if not found and cell.task in tasks:
            lacking.setdefault(name, []).append(cell.task)
        for what, where in _remarks(kind, cell, found, known):
            remarks.setdefault(what, {}).setdefault(name, []).append(where)
    missing: dict[str, list[str]] = {}  # where -> the conditions that are missing there
    for name, places in lacking.items():
        where = f"on {', '.join(places)}" if name in there else "conditions"
        missing.setdefault(where, []).append(name)
    for where, names in missing.items():
        yield f"Missing {where}: {'; '.join(names)}."
    for what, named in remarks.items():
        each = (f"{name} ({', '.join(places)})" for name, places in named.items())
        yield f"{what}: {'; '.join(each)}."


def _remarks(kind: str, cell: Cell, found: Sequence[Run], known: Ledger
             ) -> Iterator[tuple[str, str]]:
    """Says what is unusual about the runs of a cell, and on which task."""
    if kind != "rates" and 0 < len(found) < len(cell.seeds):
        yield f"Fewer than {len(cell.seeds)} seeds", f"{len(found)} on {cell.task}"
    if kind == "rates" and found and known.rate(cell) is None:
        yield "Rate not chosen yet, for lack of runs", f"on {cell.task}"
    if diverged := sum(run["result"].get("diverged_at") is not None for run in found):
        yield "Diverged runs", f"{diverged} of {len(found)} on {cell.task}"
