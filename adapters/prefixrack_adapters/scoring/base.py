"""What every kind of scoring gives, and what it needs to know of an adapter. Knows no kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.types import FailedOutput
from prefixrack_adapters.confusion import Confusion
from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.tallies import Tally

Outputs = Sequence[Any]  # of `prefixrack.types`; one that failed is a FailedOutput


@dataclass(frozen=True, slots=True)
class Facts:
    """What must be known of an adapter to score it, whether it lies in a folder or on a server."""

    task: str
    labels: tuple[str, ...] = ()
    problem: str = "single_label"
    no_answer: bool = False
    input_format: str = PLAIN


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One label, or one type of span. `support` counts the gold ones, `num_predicted` the answers."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    num_predicted: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`main` names the score that decides; inputs that failed count as wrong answers and in `num_failed`.

    `classes` are largest first; `is_right` [num_examples] is there where an answer is right or wrong as a whole.
    """

    main: str
    scores: dict[str, float]
    num_examples: int
    num_failed: int
    tally: Tally | None = field(default=None, repr=False, compare=False)
    classes: tuple[ClassScore, ...] = ()
    confusion: Confusion | None = field(default=None, repr=False, compare=False)
    is_right: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    @property
    def value(self) -> float:
        return self.scores[self.main]


def has_failed(output: Any) -> bool:
    return isinstance(output, FailedOutput)


def num_failed(outputs: Outputs) -> int:
    return sum(has_failed(output) for output in outputs)


def class_scores(
    names: Sequence[str], hits: NDArray[Any], predicted: NDArray[Any], gold: NDArray[Any]
) -> tuple[ClassScore, ...]:
    """Of the classes that occur or are predicted, largest first."""
    found = []
    for name, hit, seen, wanted in zip(names, hits, predicted, gold, strict=True):
        if seen or wanted:
            precision, recall = (hit / seen if seen else 0.0), (hit / wanted if wanted else 0.0)
            f1 = 2 * hit / (seen + wanted)
            found.append(ClassScore(name, float(precision), float(recall), float(f1), int(wanted), int(seen)))
    return tuple(sorted(found, key=lambda one: (-one.support, -one.num_predicted, one.name)))
