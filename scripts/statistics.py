"""Computes what few seeds say: intervals of means and of differences, and what survives many tests.

With three to ten runs a bootstrap's intervals are too narrow (its 95% cover 75% at three), so means
and differences have Student's t intervals; resampling is for many tasks or bodies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2_000


class Interval(NamedTuple):
    """Holds a mean, or a difference of means, between the ends of its 95% confidence interval."""

    mean: float
    low: float
    high: float
    n: int  # runs, or pairs of runs
    p: float = math.nan  # of a difference: of one as large, where there is none


def mean(values: Sequence[float]) -> Interval:
    """Computes the mean of independent runs with its interval by Student's t.

    One run has no interval: its ends are NaN.
    """
    values = np.asarray(values, float)
    centre, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(centre, math.nan, math.nan, n)
    spread = stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return Interval(centre, centre - spread, centre + spread, n)


def difference(one: Sequence[float], other: Sequence[float], paired: bool) -> Interval:
    """Computes by how much the mean of one condition exceeds that of another.

    paired: whether the runs in the same place share a seed, and so their data: then the interval is
    that of the differences, else Welch's, which assumes no equal variances.  Differences that do
    not vary at all are certain: their p is 0, or 1 where they are 0.
    """
    one, other = (np.asarray(values, float) for values in (one, other))
    centre = float(one.mean() - other.mean())
    n = len(one) if paired else min(len(one), len(other))
    if n < 2:
        return Interval(centre, math.nan, math.nan, n)
    varies = np.ptp(one - other) if paired else np.ptp(one) + np.ptp(other)
    if varies < 1e-12:
        return Interval(centre, centre, centre, n, float(abs(centre) < 1e-12))
    test = stats.ttest_rel(one, other) if paired else stats.ttest_ind(one, other, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    return Interval(centre, float(low), float(high), n, float(test.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several tests so that the chance of any false rejection stays small.

    Holm 1979: the smallest is multiplied by their number, the next by one less, and so on; none
    falls below one before it.
    """
    adjusted, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable")):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = least
    return adjusted


def interquartile_mean(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Computes the mean of the middle half of all scores, over groups such as tasks or bodies.

    Its interval is that of percentiles of a bootstrap which resamples within each group (Agarwal et
    al. 2021).
    """
    groups = [np.asarray(group, float) for group in groups]
    noise = np.random.default_rng(seed)
    centre = lambda parts: float(stats.trim_mean(np.concatenate(parts), 0.25))
    drawn = [centre([noise.choice(group, len(group)) for group in groups])
             for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return Interval(centre(groups), float(low), float(high), sum(map(len, groups)))


def rank_correlation(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval:
    """Computes Spearman's rank correlation over bodies, with a bootstrap interval and its p.

    Raises ValueError for fewer than three bodies.
    """
    one, other = (np.asarray(values, float) for values in (one, other))
    if len(one) < 3:
        raise ValueError(f"{len(one)} bodies have no rank correlation; three have")
    found, noise = stats.spearmanr(one, other), np.random.default_rng(seed)
    drawn = []
    while len(drawn) < RESAMPLES:
        chosen = noise.integers(0, len(one), len(one))
        if np.ptp(one[chosen]) and np.ptp(other[chosen]):
            drawn.append(stats.spearmanr(one[chosen], other[chosen]).statistic)
    low, high = np.percentile(drawn, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return Interval(float(found.statistic), float(low), float(high), len(one), float(found.pvalue))
