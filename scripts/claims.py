"""Reads what the papers and their critics claim: each claim is a sentence and what is to be tested.

    sentence, source  the claim in our words, and who made it
    study             the study whose runs are compared
    tasks             those that the claim is about; without it, all of the study's

A comparison of two conditions states:

    one, other        the conditions compared: the claim says that `one` does better than `other`,
                      or than the mean of two, taken seed by seed: that it has more than half of
                      what the first of them gains over the second; `floor` stands for the best
                      trivial predictor
    margin            by how much `one` may fall short of `other` and still count as equal to it
    rate              the learning rate of all runs compared, one of those that the study fixes;
                      without it, each condition's is the one that validation chose
    measure           what is compared: "accuracy" on test; the "steps" to convergence, where fewer
                      are better; or "overfitting", of which the claim says that `one` has more: by
                      how much the accuracy in training exceeds that on test

An ordering of all conditions of the study whose bodies have a known quality states:

    over              the quality that orders them: "copying gain", the greater the better, or
                      "language loss", the lower the better; the claim says that a better body
                      reaches a higher accuracy on test
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from fpt.errors import UserError, refuse_unknown
from scripts.studies import Study

FLOOR = "floor"
MEASURES = ("accuracy", "steps", "overfitting")
QUALITIES = ("copying gain", "language loss")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Holds what every claim in results/claims.toml states."""

    sentence: str
    source: str
    study: str
    tasks: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison(Claim):
    """Claims that one condition does better than another, or no worse than by a margin, or has more
    than half of what one of two others gains over the second."""

    one: str
    other: tuple[str, ...]
    margin: float = 0.0
    rate: float | None = None
    measure: str = "accuracy"

    @property
    def sides(self) -> tuple[str, ...]:
        return self.one, *self.other


@dataclass(frozen=True, kw_only=True)
class Ordering(Claim):
    """Claims that a quality of bodies orders what they reach when they are frozen."""

    over: str
    measure: ClassVar[str] = "accuracy"  # what is ordered


ANY = {one.name for one in fields(Claim)}  # what claims of both kinds state


def read(file: Path, studies: Mapping[str, Study], track: str) -> list[Claim]:
    """Reads the claims.

    Raises UserError for a file that states none, and for a claim that asks for something that its
    study does not have on a track.
    """
    place = f"claim {{}} of {file}".format  # by the claim's number
    try:
        stated = list(tomllib.loads(file.read_text())["claims"])
    except (TypeError, KeyError, ValueError) as error:  # the last is also that of bad TOML
        raise UserError(f"{file} states no claims: {type(error).__name__}: {error}") from None
    claims = []
    for number, one in enumerate(stated, 1):
        try:
            claims.append(_claim(place(number), **one))
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(f"{place(number)}: {type(error).__name__}: {error}") from None
        _check(claims[-1], studies, track, place(number))
    return claims


def _claim(place: str, tasks: list[str] | None = None, **stated: Any) -> Claim:
    for name in ("sentence", "source", "study"):
        if not isinstance(stated[name], str):
            raise TypeError(f"{name} = {stated[name]!r} must be a text")
    if tasks == []:
        raise ValueError("tasks = [] names none; leave it out for all of the study's")
    stated["tasks"] = None if tasks is None else tuple(tasks)
    if "over" not in stated:
        return _comparison(**stated)
    if mixed := [one.name for one in fields(Comparison) if one.name in stated.keys() - ANY]:
        raise UserError(f"{place} states both `over`, which orders all bodies of a study, and "
                        f"`{mixed[0]}`, which belongs to a comparison; leave one of them out")
    return Ordering(**stated)


def _comparison(other: str | list[str], margin: float = 0.0, rate: float | None = None,
                **stated: Any) -> Comparison:
    if not 0 <= float(margin) < 1:
        raise ValueError(f"margin = {margin} must be an accuracy, 0 or more and less than 1")
    return Comparison(other=(other,) if isinstance(other, str) else tuple(other),
                      margin=float(margin), rate=None if rate is None else float(rate), **stated)


def _check(claim: Claim, studies: Mapping[str, Study], track: str, place: str) -> None:
    """Refuses a claim that cannot be judged; place: where it stands."""
    at = f", in {place},"
    refuse_unknown([claim.study], studies, f"study{at}")
    study = studies[claim.study]
    refuse_unknown(claim.tasks or (), study.tracks[track].tasks, f"task of {study.name}{at}")
    if isinstance(claim, Ordering):
        refuse_unknown([claim.over], QUALITIES, f"quality of bodies{at}")
        return
    refuse_unknown([claim.measure], MEASURES, f"measure{at}")
    conditions = [condition.name for condition in study.conditions]
    refuse_unknown(claim.sides, [*conditions, FLOOR], f"condition of {study.name}{at}")
    if claim.one in claim.other:
        raise UserError(f"{place} compares {claim.one!r} with itself; state another condition")
    if len(claim.other) not in (1, 2):
        raise UserError(f"{place} compares {claim.one!r} with {len(claim.other)} conditions; state "
                        "one as `other`, or the two that a gain lies between")
    if claim.margin and claim.measure != "accuracy":
        raise UserError(f"{place} states a margin, which is one of accuracy, and compares "
                        f"{claim.measure}; leave one of them out")
    if claim.measure != "accuracy" and FLOOR in claim.sides:
        raise UserError(f"{place} compares {claim.measure} with the floor's, which is not trained; "
                        "state a condition in its place, or leave measure out")
    if claim.rate is not None and claim.rate not in study.fixed:
        fixes = ", ".join(f"{rate:g}" for rate in study.fixed) or "none"
        raise UserError(f"{place} is about the rate {claim.rate:g}, which {study.name} does not "
                        f"fix (it fixes: {fixes}); add it to `fixed` in that study's file")
