"""Judges the papers' claims by the records: each is a sentence, a comparison, and its verdict.

    sentence, source   the claim in our words, and who made it
    study, one, other  the conditions compared; `floor` stands for the best trivial predictor
    margin             by how much `one` may fall short of `other` and still count as equal to it
    tasks              those that the claim is about; without it, all of the study's
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpt.errors import UserError, nearest
from scripts import recorded, statistics
from scripts.ledger import Ledger
from scripts.markdown import markdown
from scripts.recorded import Run
from scripts.statistics import Interval
from scripts.studies import Cell, Study

FLOOR = "floor"
FEWEST = 5  # seeds of a verdict
CERTAIN = 0.05  # the greatest adjusted p-value of one
SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, NOT_TESTED = "undecided", "not tested"


@dataclass(frozen=True)
class Claim:
    """Holds a claim as results/claims.toml states it."""

    sentence: str
    source: str
    study: str
    one: str
    other: str
    margin: float = 0.0
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Finding:
    """Holds what the records say about a claim on one task."""

    claim: Claim
    task: str
    effect: Interval | None  # by how much `one` exceeds `other`, on test; None: not run
    passes: bool  # whether the better of the two clearly passes the best floor

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


def read(file: Path) -> list[Claim]:
    """Reads the claims.  Raises UserError for a file that states none."""
    try:
        stated = tomllib.loads(file.read_text())["claims"]
        return [Claim(**one | {"tasks": tuple(one["tasks"]) if "tasks" in one else None})
                for one in stated]
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{file} states no claims: {type(error).__name__}: {error}") from None


def findings(claim: Claim, study: Study, track: str, known: Ledger) -> list[Finding]:
    """Compares the two conditions of a claim on each task.

    Raises UserError for a condition that the study does not have.
    """
    cells = {(cell.task, cell.condition.name): cell for cell in study.cells(track)}
    names = [condition.name for condition in study.conditions]
    for name in (claim.one, claim.other):
        if name not in (*names, FLOOR):
            raise nearest(name, names, f"condition of {study.name}")
    return [_finding(claim, task, cells, known)
            for task in claim.tasks or study.tracks[track].tasks if (task, claim.one) in cells]


def _finding(claim: Claim, task: str, cells: Mapping[tuple[str, str], Cell], known: Ledger
             ) -> Finding:
    one = _by_seed(known.counted(cells[task, claim.one]))
    if claim.other == FLOOR:
        other = one and dict.fromkeys(one, recorded.best_floor(next(iter(one.values())))[1])
    else:
        other = {seed: _accuracy(run) for seed, run in
                 _by_seed(known.counted(cells[task, claim.other])).items()}
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return Finding(claim, task, None, False)
    ours, theirs = [_accuracy(one[seed]) for seed in seeds], [other[seed] for seed in seeds]
    # The margin is added, so that the test is of falling short by more than it.
    shifted = statistics.difference([value + claim.margin for value in ours], theirs)
    effect = shifted._replace(mean=shifted.mean - claim.margin, low=shifted.low - claim.margin,
                              high=shifted.high - claim.margin)
    floor = recorded.best_floor(one[seeds[0]])[1]
    lows = [statistics.mean(values).low for values in (ours, theirs)]
    passes = claim.other == FLOOR or max(lows) > floor
    return Finding(claim, task, effect, passes)


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    return {run["config"]["seed"]: run for run in runs}


def _accuracy(run: Run) -> float:
    return run["result"]["test"]["accuracy"]


def verdicts(found: Sequence[Finding]) -> list[tuple[Finding, float, str]]:
    """Judges all findings of a table, with p-values adjusted for their number by Holm's method."""
    tested = [one for one in found if one.tested]
    adjusted = dict(zip(map(id, tested), statistics.holm([one.effect.p for one in tested])))
    return [(one, p := adjusted.get(id(one), math.nan), one.verdict(p)) for one in found]


def document(claims: Sequence[Claim], found: Sequence[Finding], sizes: str) -> str:
    """Makes the table of claims, each followed by what was found on each task."""
    judged = verdicts(found)
    rows = [["claim", "source", "verdict"]]
    details = [["claim", "task", "difference", "95% interval", "seeds", "p", "verdict"]]
    for number, claim in enumerate(claims, 1):
        mine = [one for one in judged if one[0].claim is claim]
        rows.append([f"{number}. {claim.sentence}", claim.source, overall(mine)])
        for one, p, verdict in mine:
            if one.effect is None:
                details.append([str(number), one.task, "-", "-", "0", "-", verdict])
                continue
            effect = one.effect
            interval = "-" if math.isnan(effect.low) else f"{effect.low:+.3f} to {effect.high:+.3f}"
            failed = " (neither passes the floor)" if one.tested and not one.passes else ""
            details.append([str(number), one.task, f"{effect.mean:+.3f}", interval, str(effect.n),
                            "-" if math.isnan(p) else f"{p:.3f}", verdict + failed])
    return "\n\n".join([
        "# Claims",
        f"What the records say of what the papers and their critics claim, at the sizes `{sizes}`. "
        "A verdict follows from numbers: differences on test between runs that share a seed, "
        f"{FEWEST} seeds or more, and p-values by Student's t, adjusted by Holm's method for all "
        f"tests of this page, of at most {CERTAIN:g}; and the better of the two conditions must "
        "pass the best trivial predictor.",
        markdown(rows), "## Task by task", markdown(details)]) + "\n"


def overall(judged: Sequence[tuple[Finding, float, str]]) -> str:
    """Sums up the verdicts of a claim over its tasks: the one word where all tested tasks agree."""
    count = Counter(verdict for _, _, verdict in judged if verdict != NOT_TESTED)
    if not count:
        return NOT_TESTED
    if len(count) == 1:
        verdict, = count
        return f"{verdict} ({_tasks(judged, verdict)})"
    return "; ".join(f"{verdict} ({_tasks(judged, verdict)})"
                     for verdict in (SUPPORTED, CONTRADICTED, UNDECIDED) if count[verdict])


def _tasks(judged: Sequence[tuple[Finding, float, str]], verdict: str) -> str:
    return ", ".join(one.task for one, _, found in judged if found == verdict)
