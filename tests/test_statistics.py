"""Intervals and tests of few runs are those of textbooks, and hold what they promise."""

import math

import numpy as np
import pytest

from scripts import statistics

# t(0.975) with 4 degrees of freedom is 2.776; the sample deviation of 1..5 is sqrt(2.5).
SPREAD = 2.7764451 * math.sqrt(2.5 / 5)


def test_the_interval_of_a_mean_is_students():
    found = statistics.mean([1, 2, 3, 4, 5])
    assert found[:4] == pytest.approx((3, 3 - SPREAD, 3 + SPREAD, 5))


def test_one_run_has_no_interval_and_equal_runs_have_one_without_width():
    one = statistics.mean([0.5])
    assert one.mean == 0.5 and math.isnan(one.low) and math.isnan(one.high)
    assert statistics.mean([0.5, 0.5, 0.5])[:3] == (0.5, 0.5, 0.5)


def test_a_paired_difference_has_the_interval_of_the_differences():
    other = np.array([10.0, 30, 20, 50, 40])
    found = statistics.difference(np.add(other, [1, 2, 3, 4, 5]), other, paired=True)
    assert found[:4] == pytest.approx((3, 3 - SPREAD, 3 + SPREAD, 5))
    assert found.p == pytest.approx(0.0132, abs=1e-4)  # t = 4.243 with 4 degrees of freedom


def test_a_difference_without_pairs_is_welchs():
    """Worked by hand: variances 1 and 9 of four runs each, so 3.66 degrees of freedom, for which
    t(0.975) lies between 2.776, of four degrees, and 3.182, of three."""
    one = 10 + np.array([-1, -1, 1, 1]) * math.sqrt(3) / 2
    other = 3 * (one - 10) + 2.5
    error = math.sqrt(1 / 4 + 9 / 4)
    found = statistics.difference(one, other, paired=False)
    assert found.mean == pytest.approx(7.5)
    assert 2.776 * error < 7.5 - found.low < 3.182 * error
    assert found.high - 7.5 == pytest.approx(7.5 - found.low)


@pytest.mark.parametrize("paired", [True, False])
def test_differences_that_do_not_vary_are_certain(paired):
    assert statistics.difference([1, 1], [0.5, 0.5], paired)[:5] == (0.5, 0.5, 0.5, 2, 0)
    assert statistics.difference([1, 1], [1, 1], paired).p == 1


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_what_they_promise(n):
    """Of 4,000 samples of normal numbers, 95% have intervals that hold the mean, within two points."""
    noise = np.random.default_rng(0)
    drawn = noise.normal(0.7, 0.1, (4_000, n))
    found = [statistics.mean(values) for values in drawn]
    covered = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert abs(covered - 0.95) < 0.02
    other = noise.normal(0.7, 0.3, (4_000, n))
    for paired in (True, False):
        found = [statistics.difference(*pair, paired) for pair in zip(drawn, other)]
        assert abs(np.mean([one.low <= 0 <= one.high for one in found]) - 0.95) < 0.02


def test_holm_adjusts_as_worked_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    found = statistics.interquartile_mean([[0, 100, 2, 3], [4, 5, -50, 7]])
    assert found.mean == pytest.approx((2 + 3 + 4 + 5) / 4) and found.n == 8
    assert found.low < found.mean < found.high
    assert found == statistics.interquartile_mean([[0, 100, 2, 3], [4, 5, -50, 7]])


def test_a_rank_correlation_is_spearmans():
    """1 - 6 sum d^2 / (n (n^2 - 1)): the ranks differ by 1 in four places of six."""
    found = statistics.rank_correlation([1, 2, 3, 4, 5, 6], [2, 1, 3, 4, 6, 5])
    assert found.mean == pytest.approx(1 - 6 * 4 / (6 * 35)) and found.n == 6
    assert found.low < found.mean <= found.high <= 1
    with pytest.raises(ValueError, match="three"):
        statistics.rank_correlation([1, 2], [1, 2])
