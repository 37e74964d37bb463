"""Scoring of numbers by their correlation with gold numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefixrack_adapters import metrics
from prefixrack_adapters.scoring.base import Evaluation, Facts, Outputs, has_failed, num_failed
from prefixrack_adapters.tallies import CorrelationTally, Values
from prefixrack_adapters.training.data import Example


def judge_numbers(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold = [float(example.target) for example in examples]  # type: ignore[arg-type]  # the reader makes numbers
    predicted = [0.0 if has_failed(output) else output.value for output in outputs]
    return by_correlation(predicted, gold, num_failed(outputs))


def by_correlation(predicted: Sequence[float] | Values, gold: Sequence[float] | Values, num_failed: int) -> Evaluation:
    return Evaluation(
        main=metrics.MAIN_METRIC["regression"],
        scores=metrics.regression(list(predicted), list(gold)),
        num_examples=len(gold),
        num_failed=num_failed,
        tally=CorrelationTally(np.array(predicted, dtype=np.float64), np.array(gold, dtype=np.float64)),
    )
