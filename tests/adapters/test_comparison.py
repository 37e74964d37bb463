"""Two adapters on the same examples: differences that are shown, that are not, and pairs that cannot be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from prefixrack.errors import InvalidRequest
from prefixrack.types import ClassificationOutput
from prefixrack_adapters.comparison import compare
from prefixrack_adapters.scoring import Evaluation, Facts, judge
from prefixrack_adapters.scoring.numbers import by_correlation
from prefixrack_adapters.training.data import Example


def labels(is_right: Any, names: tuple[str, ...] = ("no", "yes")) -> Evaluation:
    """A right answer is "yes"."""
    outputs = [ClassificationOutput(label=names[int(right)], score=1, scores=[]) for right in is_right]
    return judge(Facts("text-classification", names), outputs, [Example("x", "yes")] * len(outputs))


RANDOM = np.random.default_rng(0)
GOOD = np.arange(200) < 170
WORSE = (np.arange(200) < 120) | (np.arange(200) >= 190)


def test_a_difference_that_is_shown() -> None:
    result = compare(labels(GOOD), labels(WORSE))
    assert (result.metric, result.first, result.second, result.num_examples) == ("accuracy", 0.85, 0.65, 200)
    assert result.difference == pytest.approx(0.2)
    assert result.interval is not None
    assert 0.1 < result.interval.low < 0.2 < result.interval.high < 0.3
    assert result.p_value == pytest.approx(1 / 1001)
    # 50 examples that only the first got right, 10 that only the second did
    assert result.mcnemar_p_value == pytest.approx(binomtest(10, 60).pvalue)
    words = "a is better than b by 0.2000 of accuracy on these 200 examples (p = 0.001)"
    assert result.in_words("a", "b") == compare(labels(WORSE), labels(GOOD)).in_words("b", "a") == words


def test_a_difference_that_is_not() -> None:
    result = compare(labels(GOOD), labels(np.arange(200) < 169))
    assert not result.is_shown
    assert result.p_value == 1.0
    words = "no difference between a and b is shown: 0.0050 of accuracy on these 200 examples (p = 1.000)"
    assert result.in_words("a", "b") == words


def test_an_adapter_against_itself() -> None:
    result = compare(labels(GOOD), labels(GOOD))
    assert (result.difference, result.interval, result.p_value, result.mcnemar_p_value) == (0.0, (0.0, 0.0), 1.0, 1.0)


def test_the_p_value_is_near_that_of_all_swaps() -> None:
    """Swapping the examples on which two adapters differ is tossing a coin for each: the sign test."""
    first, second = labels(np.arange(30) < 20), labels((np.arange(30) < 13) | (np.arange(30) >= 28))
    exact = binomtest(2, 9).pvalue
    assert compare(first, second, num_resamples=4000).p_value == pytest.approx(exact, abs=0.02)


def test_adapters_with_other_labels_are_compared_by_what_is_right() -> None:
    result = compare(labels(GOOD), labels(WORSE, ("never", "yes")))
    assert result.p_value == compare(labels(GOOD), labels(WORSE)).p_value


def test_numbers_on_other_scales_are_compared_by_their_ranks() -> None:
    gold = RANDOM.normal(size=150)
    near, far = gold + RANDOM.normal(size=150) * 0.2, gold + RANDOM.normal(size=150) * 2
    plain = compare(by_correlation(near, gold, 0), by_correlation(far, gold, 0))
    scaled = compare(by_correlation(near, gold, 0), by_correlation(1000 * far, gold, 0))
    assert (plain.metric, plain.is_shown, plain.mcnemar_p_value) == ("spearman", True, None)
    assert scaled.p_value == plain.p_value


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InvalidRequest, match="one was measured on 200 examples, the other on 10"):
        compare(labels(GOOD), labels(GOOD[:10]))
    with pytest.raises(InvalidRequest, match="one is scored by accuracy, the other by spearman"):
        compare(labels(GOOD), by_correlation([1.0, 2.0], [1.0, 2.0], 0))
