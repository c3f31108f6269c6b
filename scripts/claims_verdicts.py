"""Judges claims by the records: compares the runs of two conditions, or orders the bodies of a
study, and reaches a verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from scripts import recorded, statistics
from scripts.claims import FLOOR, Claim, Comparison, Ordering
from scripts.ledger import Ledger
from scripts.qualities import Quality, qualities
from scripts.recorded import Run
from scripts.statistics import Interval
from scripts.studies import Cell, Study

FEWEST = 5  # seeds of a verdict on a comparison
FEWEST_BODIES = 10  # of a verdict on an ordering
FEWEST_ALIKE = 5  # bodies of one pretraining that are also ordered among themselves
CERTAIN = 0.05  # the greatest adjusted p-value of one
SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, NOT_TESTED = "undecided", "not tested"


@dataclass(frozen=True)
class Finding:
    """Holds what the records say about a claim on one task."""

    claim: Claim
    task: str
    # By how much `one` is better than `other`, or the rank correlation of an ordering; None: there
    # is no pair of runs, or of bodies.
    effect: Interval | None
    objection: str | None = None  # why no effect, however certain, would be a verdict
    within: Mapping[str, float] = field(default_factory=dict)  # pretraining -> an ordering's rho

    @property
    def tested(self) -> bool:
        fewest = FEWEST_BODIES if isinstance(self.claim, Ordering) else FEWEST
        return self.effect is not None and self.effect.n >= fewest

    def verdict(self, p: float) -> str:
        """Returns the verdict, of a p-value that is adjusted for all tests of the table."""
        if not self.tested:
            return NOT_TESTED
        if p > CERTAIN or self.objection:
            return UNDECIDED
        least = 0.0 if isinstance(self.claim, Ordering) else -self.claim.margin
        return SUPPORTED if self.effect.mean > least else CONTRADICTED


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
    found = [finding for claim in claims
             for finding in _findings(claim, studies[claim.study], track, known[claim.study])]
    tested = [one for one in found if one.tested]
    adjusted = dict(zip(map(id, tested), statistics.holm([one.effect.p for one in tested])))
    return [Judged(one, p := adjusted.get(id(one), math.nan), one.verdict(p)) for one in found]


def _findings(claim: Claim, study: Study, track: str, known: Ledger) -> Iterator[Finding]:
    """Finds what the records say of a claim, on each of its tasks for which the study has
    all compared conditions."""
    cells = study.cells(track)
    found = qualities(cells, known.file.parent) if isinstance(claim, Ordering) else {}
    for task in claim.tasks or study.tracks[track].tasks:
        made = {cell.condition.name: cell for cell in cells if cell.task == task}
        if isinstance(claim, Ordering):
            yield _ordering(claim, task, made, known, found)
        elif (asked := {*claim.sides} - {FLOOR}) <= made.keys():
            compared = {name: cell for name, cell in made.items() if name in asked}
            yield _comparison(claim, task, compared, known)


def _ordering(claim: Ordering, task: str, cells: Mapping[str, Cell], known: Ledger,
              found: Mapping[str, Quality]) -> Finding:
    """Correlates the ranks of bodies by a quality with their ranks by accuracy on test."""
    merits = {name: merit for name, quality in found.items()
              if (merit := RANKED[claim.over](quality)) is not None}
    runs = {name: of_body for name, cell in cells.items()
            if name in merits and len(of_body := known.counted(cell)) == len(cell.seeds)}
    if len(runs) < 2:
        return Finding(claim, task, None)
    reached = {name: [*map(_accuracy, of_body)] for name, of_body in runs.items()}
    floor = recorded.best_floor(next(iter(runs.values()))[0])[1]
    pairs = {name: (merits[name], fmean(values)) for name, values in reached.items()}
    kinds = Counter(found[name].pretraining for name in runs)
    within = {kind: statistics.correlation(*zip(*(
                  pair for name, pair in pairs.items() if found[name].pretraining == kind)))
              for kind, count in kinds.items() if FEWEST_ALIKE <= count < len(runs)}
    return Finding(claim, task, statistics.rank_correlation(*zip(*pairs.values())),
                   _below(floor, reached.values(), any), within)


def _comparison(claim: Comparison, task: str, cells: Mapping[str, Cell], known: Ledger) -> Finding:
    runs = {name: _by_seed(claim, cell, known) for name, cell in cells.items()}
    seeds = sorted(set.intersection(*map(set, runs.values())))
    if not seeds:
        return Finding(claim, task, None)
    floor = recorded.best_floor(next(iter(runs.values()))[seeds[0]])[1]
    value = MERITS[claim.measure]
    values = {name: [value(of_seed[seed]) for seed in seeds] for name, of_seed in runs.items()}
    values[FLOOR] = [floor] * len(seeds)
    other = [fmean(of_seed) for of_seed in zip(*(values[name] for name in claim.other))]
    effect = statistics.difference(values[claim.one], other, than=-claim.margin)
    return Finding(claim, task, effect, _objection(claim, values, [
        [_accuracy(of_seed[seed]) for seed in seeds] for of_seed in runs.values()], floor))


def _by_seed(claim: Comparison, cell: Cell, known: Ledger) -> dict[int, Run]:
    runs = known.counted(cell) if claim.rate is None else known.at(cell, claim.rate)
    return {run["config"]["seed"]: run for run in runs}


def _objection(claim: Comparison, values: Mapping[str, Sequence[float]],
               reached: Sequence[Sequence[float]], floor: float) -> str | None:
    """Says why a comparison can have no verdict; None if it can.

    values: what is compared, by side and seed.  reached: the accuracies of each condition.
    """
    if len(claim.other) == 2:  # more than half of a gain is claimed, which has to be one
        gain = statistics.difference(*(values[name] for name in claim.other))
        if not gain.low > 0:
            return f"no gain of {claim.other[0]}"
    if FLOOR in claim.sides:
        return None
    # Where steps are compared all must pass, since what learns nothing has converged at once.
    return _below(floor, reached, all if claim.measure == "steps" else any)


def _below(floor: float, reached: Iterable[Sequence[float]],
           enough: Callable[[Iterable[bool]], bool]) -> str | None:
    """Says that too few conditions pass a floor, each with the whole interval of its accuracies."""
    if enough(statistics.mean(values).low > floor for values in reached):
        return None
    return f"{'not all pass' if enough is all else 'none passes'} the floor"


def _accuracy(run: Run) -> float:
    return run["result"]["test"]["accuracy"]


def _speed(run: Run) -> float:
    """Computes how fast a run converged: twice as fast is one more."""
    return -math.log2(recorded.converged_at(run))


def _overfitting(run: Run) -> float:
    """Computes by how much a run's accuracy in training exceeds that on test: not at all where its
    best evaluation is the one before the first step."""
    reached = recorded.training_accuracy(run)
    return 0.0 if reached is None else reached - _accuracy(run)


# Of a run, by measure: a claim says that `one` has more of it than `other`.
MERITS = {"accuracy": _accuracy, "steps": _speed, "overfitting": _overfitting}
# Of a body, by quality: the greater the better; None where it was not measured.
RANKED = {"copying gain": lambda quality: quality.gain,
          "language loss": lambda quality: None if quality.loss is None else -quality.loss}
