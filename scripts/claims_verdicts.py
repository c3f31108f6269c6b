"""Judges claims by the records: compares the runs of two conditions and reaches a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from scripts import recorded, statistics
from scripts.claims import FLOOR, Claim
from scripts.ledger import Ledger
from scripts.recorded import Run
from scripts.statistics import Interval
from scripts.studies import Cell, Study

FEWEST = 5  # seeds of a verdict
CERTAIN = 0.05  # the greatest adjusted p-value of one
SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, NOT_TESTED = "undecided", "not tested"


@dataclass(frozen=True)
class Finding:
    """Holds what the records say about a claim on one task."""

    claim: Claim
    task: str
    effect: Interval | None  # by how much `one` is better than `other`; None: no pair of runs
    passes: bool  # whether the accuracies pass the best floor, as `_pass` asks

    @property
    def tested(self) -> bool:
        return self.effect is not None and self.effect.n >= FEWEST

    def verdict(self, p: float) -> str:
        """Returns the verdict, of a p-value that is adjusted for all tests of the table."""
        if not self.tested:
            return NOT_TESTED
        if p > CERTAIN or not self.passes:
            return UNDECIDED
        return SUPPORTED if self.effect.mean > -self.claim.margin else CONTRADICTED


class Judged(NamedTuple):
    """Holds a finding with its verdict, and the adjusted p-value that led to it."""

    finding: Finding
    p: float
    verdict: str


def judge(claims: Sequence[Claim], studies: Mapping[str, Study], track: str,
          known: Mapping[str, Ledger]) -> list[Judged]:
    """Judges claims on each of their tasks, with p-values adjusted for the number of all tests.

    known: the records of each study.
    """
    found = [_finding(claim, task, cells, known[claim.study]) for claim in claims
             for task, cells in _cells(claim, studies[claim.study], track).items()]
    tested = [one for one in found if one.tested]
    adjusted = dict(zip(map(id, tested), statistics.holm([one.effect.p for one in tested])))
    return [Judged(one, p := adjusted.get(id(one), math.nan), one.verdict(p)) for one in found]


def _cells(claim: Claim, study: Study, track: str) -> dict[str, dict[str, Cell]]:
    """Finds the conditions that a claim compares, by task; of tasks on which each is made."""
    found: dict[str, dict[str, Cell]] = {task: {} for task in
                                         claim.tasks or study.tracks[track].tasks}
    for cell in study.cells(track):
        if cell.task in found and cell.condition.name in claim.sides:
            found[cell.task][cell.condition.name] = cell
    return {task: cells for task, cells in found.items() if {*claim.sides} - {FLOOR} == {*cells}}


def _finding(claim: Claim, task: str, cells: Mapping[str, Cell], known: Ledger) -> Finding:
    runs = {name: _by_seed(claim, cell, known) for name, cell in cells.items()}
    seeds = sorted(set.intersection(*map(set, runs.values())))
    if not seeds:
        return Finding(claim, task, None, False)
    floor = recorded.best_floor(next(iter(runs.values()))[seeds[0]])[1]
    value = MERITS[claim.measure]
    values = {name: [value(of_seed[seed]) for seed in seeds] for name, of_seed in runs.items()}
    values[FLOOR] = [floor] * len(seeds)
    other = [fmean(of_seed) for of_seed in zip(*(values[name] for name in claim.other))]
    effect = statistics.difference(values[claim.one], other, than=-claim.margin)
    reached = [[_accuracy(of_seed[seed]) for seed in seeds] for of_seed in runs.values()]
    return Finding(claim, task, effect, _pass(claim, reached, floor))


def _by_seed(claim: Claim, cell: Cell, known: Ledger) -> dict[int, Run]:
    runs = known.counted(cell) if claim.rate is None else known.at(cell, claim.rate)
    return {run["config"]["seed"]: run for run in runs}


def _pass(claim: Claim, reached: Sequence[Sequence[float]], floor: float) -> bool:
    """Tells whether the accuracies of conditions clearly pass a floor: any of them where accuracies
    are compared, and all where steps are, since what learns nothing has converged at once."""
    passing = [statistics.mean(values).low > floor for values in reached]
    return FLOOR in claim.sides or (all if claim.measure == "steps" else any)(passing)


def _accuracy(run: Run) -> float:
    return run["result"]["test"]["accuracy"]


def _speed(run: Run) -> float:
    """Computes how fast a run converged: twice as fast is one more."""
    return -math.log2(recorded.converged_at(run))


MERITS = {"accuracy": _accuracy, "steps": _speed}  # of a run, by measure: the greater the better
