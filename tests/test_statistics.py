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


def test_a_mean_loses_nothing_to_the_order_of_its_sum():
    assert statistics.mean([1e16, 1, -1e16, 4]).mean == 1.25
    # That of a sum of floats is less than 0.4105, and would be printed as 0.410.
    assert f"{statistics.mean([0.4085, 0.415, 0.408]).mean:.3f}" == "0.411"


def test_a_difference_has_the_interval_of_the_differences_of_its_pairs():
    other = np.array([10.0, 30, 20, 50, 40])
    found = statistics.difference(np.add(other, [1, 2, 3, 4, 5]), other)
    assert found[:4] == pytest.approx((3, 3 - SPREAD, 3 + SPREAD, 5))
    assert found.p == pytest.approx(0.0132, abs=1e-4)  # t = 4.243 with 4 degrees of freedom


def test_one_pair_has_no_interval_and_differences_that_do_not_vary_are_certain():
    assert math.isnan(statistics.difference([0.5], [0.2]).p)
    assert statistics.difference([1, 1], [0.5, 0.5]) == (0.5, 0.5, 0.5, 2, 0)
    assert statistics.difference([1, 1], [1, 1]).p == 1
    assert statistics.difference([1, 1], [1.5, 1.5], than=-0.5).p == 1


def test_a_difference_can_be_tested_against_another_than_none():
    found = statistics.difference([1, 2, 3, 4, 5], [0] * 5, than=1)
    assert found[:4] == pytest.approx((3, 3 - SPREAD, 3 + SPREAD, 5))
    assert found.p == pytest.approx(0.0474, abs=1e-4)  # t = 2 / sqrt(0.5) = 2.828, 4 degrees


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_what_they_promise(n):
    """Of 4,000 samples of normal numbers, 95% have intervals that hold the mean, within two points."""
    noise = np.random.default_rng(0)
    drawn = noise.normal(0.7, 0.1, (4_000, n))
    found = [statistics.mean(values) for values in drawn]
    covered = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert abs(covered - 0.95) < 0.02
    other = noise.normal(0.7, 0.3, (4_000, n))
    found = [statistics.difference(*pair) for pair in zip(drawn, other)]
    assert abs(np.mean([one.low <= 0 <= one.high for one in found]) - 0.95) < 0.02
    assert abs(np.mean([one.p > 0.05 for one in found]) - 0.95) < 0.02


def test_holm_adjusts_as_worked_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


def test_a_rank_correlation_is_that_of_permuted_ranks():
    found = statistics.rank_correlation([1, 2, 3, 4, 5], [0.1, 0.2, 0.4, 0.3, 9.0])
    assert found.mean == pytest.approx(1 - 6 * 2 / (5 * 24)) and found.n == 5
    # Of 120 permutations five are as much in order: this one's, and those with one swap.
    assert found.p == pytest.approx(2 * 5 / 120) and -1 <= found.low < 0.9 < found.high <= 1
    assert statistics.rank_correlation([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).mean == pytest.approx(-1)
    assert found == statistics.rank_correlation([1, 2, 3, 4, 5], [0.1, 0.2, 0.4, 0.3, 9.0])


def test_bodies_that_all_reach_the_same_are_in_no_order():
    assert statistics.rank_correlation(range(10), [0.5] * 10) == (0, 0, 0, 10, 1)
    # Two above eight equal ones, the first and the last: ranks 9.5 and 4.5, in no order either.
    found = statistics.rank_correlation(range(10), [0.9, *[0.5] * 8, 0.9])
    assert found.mean == pytest.approx(0) and found.p > 0.9
