"""Computes confidence intervals and tests for few seeds, adjusts p-values for many tests, and
correlates ranks over ten bodies or more.

Intervals of means are by Student's t, since those of a bootstrap are too narrow with few runs: its
95% cover 75% with three runs, and 84% with five.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
PERMUTATIONS = 99_999  # so many that a p-value survives its adjustment for a hundred tests


class Interval(NamedTuple):
    """Holds a mean, a difference of means or a rank correlation between the ends of its 95%
    confidence interval."""

    mean: float
    low: float
    high: float
    n: int  # runs, pairs of runs, or bodies
    p: float  # the chance of a mean as far from the one that is tested, were that the true one


def mean(values: Sequence[float], than: float = 0.0) -> Interval:
    """Computes the mean of independent runs with its interval by Student's t, and tests whether it
    differs from `than`.

    One run has no interval: its ends and its p are NaN.  Runs that do not vary at all are certain:
    their p is 0, or 1 where their mean is `than`.
    """
    values = np.asarray(values, float)
    centre, n = fmean(values), len(values)
    if n < 2:
        return Interval(centre, math.nan, math.nan, n, math.nan)
    if np.ptp(values) < 1e-12:
        return Interval(centre, centre, centre, n, float(abs(centre - than) < 1e-12))
    found = stats.ttest_1samp(values, than)
    low, high = map(float, found.confidence_interval(LEVEL))
    return Interval(centre, low, high, n, float(found.pvalue))


def difference(one: Sequence[float], other: Sequence[float], than: float = 0.0) -> Interval:
    """Computes by how much the mean of one condition exceeds that of another, and tests whether
    that differs from `than`.

    Runs in the same place share a seed, and so their data: the interval is that of the differences
    of these pairs.
    """
    return mean(np.asarray(one, float) - np.asarray(other, float), than)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> Interval:
    """Computes Spearman's rank correlation of two measures of the same bodies, and tests whether
    one of them orders the other at all.

    The interval is that of the percentile bootstrap over bodies: in 250 normal samples of 10 or 15
    it covered 94 to 99% of the time, where the basic bootstrap covered 80 to 92%, and that with
    bias corrections has no ends where the order is perfect.  p is that of permuted bodies, two
    sided.  The numbers are drawn under a fixed seed.
    """
    values = tuple(np.asarray(measure, float) for measure in (one, other))
    interval = stats.bootstrap(values, _correlation, paired=True, vectorized=True, rng=0,
                               method="percentile", confidence_level=LEVEL).confidence_interval
    tested = stats.permutation_test(
        values[:1], lambda permuted, axis: _correlation(permuted, values[1], axis),
        permutation_type="pairings", vectorized=True, n_resamples=PERMUTATIONS, rng=0)
    return Interval(correlation(*values), float(interval.low), float(interval.high), len(values[0]),
                    float(tested.pvalue))


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Computes Spearman's rank correlation of two measures of the same bodies."""
    return float(_correlation(np.asarray(one, float), np.asarray(other, float)))


def _correlation(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    """Computes rank correlations; equal values share a rank, and where all values are equal there
    is no order, which counts as a correlation of 0."""
    ranks = [stats.rankdata(values, axis=axis) for values in (one, other)]
    one, other = (rank - rank.mean(axis, keepdims=True) for rank in ranks)
    spread = np.sqrt((one**2).sum(axis) * (other**2).sum(axis))
    return np.divide((one * other).sum(axis), spread, out=np.zeros(spread.shape), where=spread > 0)


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
