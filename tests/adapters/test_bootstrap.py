"""Confidence intervals: known widths, the same every time, and none where there is nothing to draw from."""

from __future__ import annotations

import numpy as np
import pytest

from prefixrack_adapters.bootstrap import intervals
from prefixrack_adapters.tallies import CorrelationTally, Tally, means


def shares(num_right: int, size: int) -> Tally:
    return means({"accuracy": np.arange(size) < num_right})


def test_an_interval_is_as_wide_as_the_binomial_distribution_says() -> None:
    low, high = intervals(shares(300, 400))["accuracy"]
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)


def test_ten_thousand_resamples_cover_the_score_as_one_thousand_do() -> None:
    few, many = (intervals(shares(60, 100), num_resamples=size)["accuracy"] for size in (1000, 10_000))
    assert few == pytest.approx(many, abs=0.02)
    assert few.low < 0.6 < few.high


def test_the_same_seed_gives_the_same_interval() -> None:
    tally = CorrelationTally(np.arange(50.0) % 7, np.arange(50.0))
    assert intervals(tally) == intervals(tally)
    assert intervals(tally) != intervals(tally, seed=1)


def test_scores_without_spread_have_an_interval_of_no_width() -> None:
    assert intervals(shares(9, 9)) == {"accuracy": (1.0, 1.0)}


def test_correlations_of_resamples_that_are_constant_are_zero() -> None:
    low, high = intervals(CorrelationTally(np.array([1.0, 2.0]), np.array([1.0, 2.0])))["spearman"]
    assert low == 0.0
    assert high == pytest.approx(1.0)


def test_one_example_has_no_interval() -> None:
    assert intervals(shares(1, 1)) == {}
    assert intervals(None) == {}
