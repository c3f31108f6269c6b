"""Reads what the papers and their critics claim: each claim is a sentence and a comparison.

    sentence, source  the claim in our words, and who made it
    study             the study whose runs are compared
    one, other        the conditions compared: the claim says that `one` does better than `other`,
                      or than the mean of several, taken seed by seed; `floor` stands for the best
                      trivial predictor
    margin            by how much `one` may fall short of `other` and still count as equal to it
    rate              the learning rate of all runs compared, one of those that the study fixes;
                      without it, each condition's is the one that validation chose
    measure           what is compared: "accuracy" on test, or the "steps" to convergence
    tasks             those that the claim is about; without it, all of the study's
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpt.errors import UserError, nearest
from scripts.studies import Study

FLOOR = "floor"
MEASURES = ("accuracy", "steps")


@dataclass(frozen=True)
class Claim:
    """Holds a claim as results/claims.toml states it."""

    sentence: str
    source: str
    study: str
    one: str
    other: tuple[str, ...]
    margin: float = 0.0
    rate: float | None = None
    measure: str = "accuracy"
    tasks: tuple[str, ...] | None = None

    @property
    def sides(self) -> tuple[str, ...]:
        return self.one, *self.other


def read(file: Path, studies: Mapping[str, Study], track: str) -> list[Claim]:
    """Reads the claims.

    Raises UserError for a file that states none, and for a claim that asks for something that its
    study does not have on a track.
    """
    try:
        claims = [_claim(**stated) for stated in tomllib.loads(file.read_text())["claims"]]
    except (TypeError, KeyError, ValueError) as error:  # the last is also that of bad TOML
        raise UserError(f"{file} states no claims: {type(error).__name__}: {error}") from None
    for number, claim in enumerate(claims, 1):
        _check(claim, studies, track, f"claim {number} of {file}")
    return claims


def _claim(other: str | list[str], margin: float = 0.0, rate: float | None = None,
           tasks: list[str] | None = None, **stated: Any) -> Claim:
    return Claim(other=(other,) if isinstance(other, str) else tuple(other), margin=float(margin),
                 rate=None if rate is None else float(rate),
                 tasks=None if tasks is None else tuple(tasks), **stated)


def _check(claim: Claim, studies: Mapping[str, Study], track: str, place: str) -> None:
    """Refuses a claim that cannot be judged; place: where it stands."""
    def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
        for name in names:
            if name not in known:
                raise nearest(name, known, f"{what}, in {place},")

    refuse_unknown([claim.study], studies, "study")
    refuse_unknown([claim.measure], MEASURES, "measure")
    study = studies[claim.study]
    conditions = [condition.name for condition in study.conditions]
    refuse_unknown(claim.sides, [*conditions, FLOOR], f"condition of {study.name}")
    refuse_unknown(claim.tasks or (), study.tracks[track].tasks, f"task of {study.name}")
    if not claim.other or claim.one in claim.other:
        raise UserError(f"{place} compares {claim.one!r} with "
                        f"{'itself' if claim.other else 'nothing'}; state another condition")
    if claim.measure == "steps" and FLOOR in claim.sides:
        raise UserError(f"{place} compares steps with the floor's, which takes none; state a "
                        "condition in its place, or leave measure out")
    if claim.rate is not None and claim.rate not in study.fixed:
        fixes = ", ".join(f"{rate:g}" for rate in study.fixed) or "none"
        raise UserError(f"{place} is about the rate {claim.rate:g}, which {study.name} does not "
                        f"fix (it fixes: {fixes}); add it to `fixed` in that study's file")
