"""Two adapters on the same examples: whether the difference of their scores is more than chance. Knows no tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.bootstrap import MAX_PICKS, NUM_RESAMPLES, SEED, Interval, resampled_interval
from prefixrack_adapters.scoring.base import Evaluation
from prefixrack_adapters.tallies import CorrelationTally, Picks, Tally, Values

SIGNIFICANCE = 0.05
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference` is the first's score less the second's; `interval` is its paired bootstrap's, 95 %.

    `p_value` is of the approximate randomisation test, `mcnemar_p_value` of McNemar's exact test over answers that are
    right or wrong as a whole.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: Interval | None
    p_value: float
    mcnemar_p_value: float | None
    num_examples: int

    @property
    def is_shown(self) -> bool:
        return self.p_value < SIGNIFICANCE

    def in_words(self, first: str, second: str) -> str:
        where = f"of {self.metric} on these {self.num_examples} examples (p = {self.p_value:.3f})"
        if not self.is_shown:
            return f"no difference between {first} and {second} is shown: {abs(self.difference):.4f} {where}"
        better, worse = (first, second) if self.difference > 0 else (second, first)
        return f"{better} is better than {worse} by {abs(self.difference):.4f} {where}"


def compare(first: Evaluation, second: Evaluation, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> Comparison:
    """Compare by the first's main score, or the second's where the first has it too.

    Raises InvalidRequest where the two have no score in common or were not measured on the same number of examples.
    """
    tally, other, metric = _comparable(first, second)
    return Comparison(
        metric=metric,
        first=first.scores[metric],
        second=second.scores[metric],
        difference=first.scores[metric] - second.scores[metric],
        interval=_interval(tally, other, metric, num_resamples, seed),
        p_value=_randomisation(tally, other, metric, num_resamples, seed),
        mcnemar_p_value=_mcnemar(first, second),
        num_examples=first.num_examples,
    )


def _comparable(first: Evaluation, second: Evaluation) -> tuple[Tally, Tally, str]:
    shared = [name for name in (first.main, second.main) if name in first.scores and name in second.scores]
    if first.tally is None or second.tally is None or not shared:
        raise InvalidRequest(
            f"one is scored by {first.main}, the other by {second.main}: compare adapters of the same task"
        )
    sizes = (first.tally.num_examples, second.tally.num_examples)
    if sizes[0] != sizes[1]:
        raise InvalidRequest(f"one was measured on {sizes[0]} examples, the other on {sizes[1]}: the same are needed")
    return first.tally.part(shared[0]), second.tally.part(shared[0]), shared[0]


def _interval(tally: Tally, other: Tally, metric: str, num_resamples: int, seed: int) -> Interval | None:
    if tally.num_examples < 2:
        return None

    def difference(picks: Picks) -> Values:
        return tally.of(picks)[metric] - other.of(picks)[metric]

    low, high = resampled_interval(difference, tally.num_examples, num_resamples, seed)
    return Interval(float(low), float(high))


def _randomisation(tally: Tally, other: Tally, metric: str, num_resamples: int, seed: int) -> float:
    """The two-sided p value of swapping the two adapters' answers at random, example by example (Noreen 1989).

    SciPy's permutation test draws every example's swap by itself, which takes minutes for ten thousand examples.
    """
    if metric == "spearman" and isinstance(tally, CorrelationTally) and isinstance(other, CorrelationTally):
        tally, other = tally.in_ranks(), other.in_ranks()
    size, both = tally.num_examples, tally.followed_by(other)
    own = np.arange(size)

    def differences(is_swapped: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Values:
        first, second = both.of(np.where(is_swapped, own + size, own)), both.of(np.where(is_swapped, own, own + size))
        return np.asarray(np.abs(first[metric] - second[metric]))

    observed = differences(np.zeros((1, size), dtype=np.bool_))[0]
    random, batch = np.random.default_rng(seed), max(1, MAX_PICKS // size)
    num_larger = 0
    for start in range(0, num_resamples, batch):
        swapped = random.random((min(batch, num_resamples - start), size)) < 0.5
        num_larger += int((differences(swapped) >= observed - ROUNDING).sum())
    return (num_larger + 1) / (num_resamples + 1)


def _mcnemar(first: Evaluation, second: Evaluation) -> float | None:
    """Of the examples that only one of the two got right, is each as likely to be the one (McNemar 1947)?"""
    if first.is_right is None or second.is_right is None:
        return None
    only_first = int((first.is_right & ~second.is_right).sum())
    only_second = int((second.is_right & ~first.is_right).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)
