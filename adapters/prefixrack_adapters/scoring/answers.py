"""Scoring of answers found in a context, as SQuAD's official script does."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefixrack.types import QuestionAnsweringOutput
from prefixrack_adapters import metrics
from prefixrack_adapters.scoring.base import Evaluation, Facts, Outputs, has_failed, num_failed
from prefixrack_adapters.tallies import CountTally, Tally, Values, counted, joined, means
from prefixrack_adapters.training.data import Example

TINY = sys.float_info.min


def judge_answers(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold: list[Any] = [example.target for example in examples]
    predicted = ["" if has_failed(output) or output.answer is None else output.answer.text for output in outputs]
    exact = np.array([metrics.exact_match(text, targets) for text, targets in zip(predicted, gold, strict=True)])
    overlap = np.array([metrics.answer_f1(text, targets) for text, targets in zip(predicted, gold, strict=True)])
    scores = metrics.answers(predicted, gold)
    tally: Tally = means({"f1": overlap, "exact_match": exact})
    if facts.no_answer:
        found, margins = _found(outputs)
        scores |= metrics.best_null_threshold(found, margins, gold)
        tally = joined(tally, _at_best_threshold(metrics.f1_by_null_threshold(found, margins, gold)))
    return Evaluation(
        main=metrics.main_metric(facts.task, facts.problem, facts.no_answer),
        scores=scores,
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=tally,
        is_right=exact > 0,
    )


def _found(outputs: Outputs) -> tuple[list[str], list[float]]:
    """The best answer of each, and how far the null score is above it.

    Both scores are softmaxes over one set, so the difference of their logarithms is that of the logits.
    """
    shown = [output if isinstance(output, QuestionAnsweringOutput) and output.answers else None for output in outputs]
    found = [output.answers[0].text if output is not None else "" for output in shown]
    margins = [
        math.log(max(output.no_answer_score, TINY)) - math.log(max(output.answers[0].score, TINY))
        if output is not None
        else math.inf
        for output in shown
    ]
    return found, margins


def _at_best_threshold(by_threshold: Values) -> CountTally:
    """The best threshold is chosen anew for every choice of examples: that it is chosen is part of the uncertainty."""

    def formula(sums: Values) -> dict[str, Values]:
        return {"best_f1": sums[:, :-1].max(axis=1) / sums[:, -1]}

    return counted([by_threshold, np.ones(len(by_threshold))], formula)
