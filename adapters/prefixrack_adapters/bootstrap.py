"""Confidence intervals of scores by bootstrap over examples (Efron 1979). Knows tallies; no tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from prefixrack_adapters.tallies import Picks, Tally, Values

NUM_RESAMPLES = 1000
LEVEL = 0.95
SEED = 13
MAX_PICKS = 1_000_000  # held at once: what one batch of resamples takes in memory


class Interval(NamedTuple):
    low: float
    high: float


def intervals(tally: Tally | None, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """The 95 % percentile interval of every score; none at all without a tally of at least two examples."""
    if tally is None or tally.num_examples < 2:
        return {}
    names = list(tally.all())

    def statistic(picks: Picks) -> Values:
        scores = tally.of(picks)
        return np.stack([scores[name] for name in names])

    low, high = resampled_interval(statistic, tally.num_examples, num_resamples, seed)
    return {name: Interval(float(low[index]), float(high[index])) for index, name in enumerate(names)}


def resampled_interval(
    statistic: Callable[[Picks], Values], num_examples: int, num_resamples: int, seed: int
) -> tuple[Any, Any]:
    """Ends of the interval of a statistic that takes chosen examples [..., num_examples] to values [n, ...] or [...].

    Raises ValueError for fewer than two examples.
    """
    result = stats.bootstrap(
        (np.arange(num_examples),),
        lambda picks, axis: statistic(picks),
        n_resamples=num_resamples,
        batch=max(1, MAX_PICKS // num_examples),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    return result.confidence_interval.low, result.confidence_interval.high
