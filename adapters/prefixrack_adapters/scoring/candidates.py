"""Scoring of inputs that are asked once for each candidate: options that are judged, or the best entity chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefixrack.errors import InvalidRequest
from prefixrack_adapters import metrics
from prefixrack_adapters.scoring.base import Evaluation, Facts, Outputs, has_failed, num_failed
from prefixrack_adapters.tallies import Values, counted, f1, joined, means
from prefixrack_adapters.training.data import CandidateLabels, Example
from prefixrack_adapters.training.data.candidates import YES

RIGHT_OUTPUT = 1  # which of an adapter's labels says so


def judge_options(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    """F1 over all options of all questions (SuperGLUE's F1a), and the share of questions with no option wrong."""
    if len(facts.labels) != 2:
        raise InvalidRequest(
            f"the adapter has {len(facts.labels)} labels: right and wrong options are scored with 2, the second of "
            "which means right"
        )
    gold = [[label == YES for label in _target(example).labels] for example in examples]
    right = facts.labels[RIGHT_OUTPUT]
    predicted = [
        [not one for one in wanted] if has_failed(output) else [one.label == right for one in output.judged]
        for output, wanted in zip(outputs, gold, strict=True)
    ]
    counts = np.array([_counts(seen, wanted) for seen, wanted in zip(predicted, gold, strict=True)])
    exact = np.array([seen == wanted for seen, wanted in zip(predicted, gold, strict=True)])
    return Evaluation(
        main=metrics.MAIN_METRIC["multirc"],
        scores=metrics.options(predicted, gold),
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=joined(counted([counts], _formula), means({"exact_match": exact})),
        is_right=exact,
    )


def _counts(seen: Sequence[bool], wanted: Sequence[bool]) -> tuple[int, int, int]:
    return sum(a and b for a, b in zip(seen, wanted, strict=True)), sum(seen), sum(wanted)


def _formula(sums: Values) -> dict[str, Values]:
    hits, predicted, gold = sums.T
    return {"f1a": f1(hits, predicted, gold)}


def judge_entities(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    """Exact match and F1 of the chosen entity, the maximum over the right ones."""
    gold = [_right_names(_target(example)) for example in examples]
    predicted = [None if has_failed(output) else str(output.entity) for output in outputs]
    scored = [metrics.entity(name, names) for name, names in zip(predicted, gold, strict=True)]
    overlap, exact = np.array(scored).T
    return Evaluation(
        main=metrics.MAIN_METRIC["record"],
        scores={"f1": float(overlap.mean()), "exact_match": float(exact.mean())},
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=means({"f1": overlap, "exact_match": exact}),
        is_right=exact > 0,
    )


def _target(example: Example) -> CandidateLabels:
    assert isinstance(example.target, CandidateLabels), "all records of a file are read the same way"
    return example.target


def _right_names(target: CandidateLabels) -> tuple[str, ...]:
    return tuple(name for name, label in zip(target.names, target.labels, strict=True) if label == YES)
