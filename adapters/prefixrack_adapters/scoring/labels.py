"""Scoring of labels: one of several, several at once, one of an input's own choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.preprocessing import MultiLabelBinarizer

from prefixrack_adapters import metrics
from prefixrack_adapters.confusion import confusion_of
from prefixrack_adapters.scoring.base import (
    ClassScore,
    Evaluation,
    Facts,
    Outputs,
    class_scores,
    has_failed,
    num_failed,
)
from prefixrack_adapters.tallies import Values, counted, f1, joined, means, ratio
from prefixrack_adapters.training.data import Example

FAILED = ""  # the label of an input that failed: no adapter can have it as a name that is right


def judge_label(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold: list[str] = [str(example.target) for example in examples]
    predicted = [FAILED if has_failed(output) else output.label for output in outputs]
    names = list(dict.fromkeys((*facts.labels, *sorted({*gold, *predicted}))))
    is_right = np.array(predicted) == np.array(gold)
    seen, wanted = _one_hot(predicted, names), _one_hot(gold, names)
    hits = seen.multiply(wanted)

    def macro(sums: Values) -> dict[str, Values]:
        per_class = np.split(sums, 3, axis=1)
        occurs = per_class[1] + per_class[2] > 0
        return {"macro_f1": ratio(f1(*per_class).sum(axis=1), occurs.sum(axis=1))}

    return Evaluation(
        main=metrics.MAIN_METRIC["single_label"],
        scores=metrics.single_label(predicted, gold),
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=joined(means({"accuracy": is_right}), counted([hits, seen, wanted], macro)),
        classes=_classes(names, hits, seen, wanted),
        confusion=confusion_of(gold, predicted, names),
        is_right=is_right,
    )


def judge_labels(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold: list[Any] = [example.target for example in examples]
    predicted = [[] if has_failed(output) else [entry.label for entry in output.labels] for output in outputs]
    names = list(dict.fromkeys((*facts.labels, *sorted({label for several in gold for label in several}))))
    binarizer = MultiLabelBinarizer(classes=names, sparse_output=True).fit([])
    seen, wanted = binarizer.transform(predicted), binarizer.transform(gold)

    hits = seen.multiply(wanted)
    micro = counted([side.sum(axis=1) for side in (hits, seen, wanted)], lambda sums: {"micro_f1": f1(*sums.T)})

    def macro(sums: Values) -> dict[str, Values]:
        return {"macro_f1": f1(*np.split(sums, 3, axis=1)).mean(axis=1)}

    return Evaluation(
        main=metrics.MAIN_METRIC["multi_label"],
        scores=metrics.multi_label(predicted, gold, names),
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=joined(micro, counted([hits, seen, wanted], macro)),
        classes=_classes(names, hits, seen, wanted),
    )


def judge_choices(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold: list[Any] = [example.target for example in examples]
    predicted = [-1 if has_failed(output) else output.choice for output in outputs]
    is_right = np.array(predicted) == np.array(gold)
    return Evaluation(
        main=metrics.MAIN_METRIC["multiple-choice"],
        scores=metrics.choices(predicted, gold),
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=means({"accuracy": is_right}),
        is_right=is_right,
    )


def _one_hot(values: Sequence[str], names: Sequence[str]) -> sparse.csr_matrix:
    place = {name: index for index, name in enumerate(names)}
    columns = [place[value] for value in values]
    return sparse.csr_matrix((np.ones(len(values)), (range(len(values)), columns)), shape=(len(values), len(names)))


def _classes(names: Sequence[str], *sides: Any) -> tuple[ClassScore, ...]:
    """`sides` are hits, predicted and gold, each [num_examples, num_classes]."""
    found = class_scores(names, *(np.asarray(side.sum(axis=0)).ravel() for side in sides))
    return tuple(one for one in found if one.name != FAILED)
