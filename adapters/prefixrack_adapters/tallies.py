"""Tallies: what each example adds to an adapter's scores. Knows numbers only; no tasks, no outputs.

A score of any choice of examples, with repetition, comes from the examples' tallies alone. That is what makes a
bootstrap or a randomisation test of a thousand resamples one matrix product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import rankdata

Values = NDArray[np.float64]
Picks = NDArray[np.intp]
Formula = Callable[[Values], dict[str, Values]]
ENOUGH_DIFFERENCE = 1e-12  # of a variance against the squares that it is made of: below it, rounding


class Tally(ABC):
    @property
    @abstractmethod
    def num_examples(self) -> int: ...

    @abstractmethod
    def of(self, picks: Picks) -> dict[str, Values]:
        """Every score of the examples `picks` [..., num_picked]; each score is [...]."""

    @abstractmethod
    def followed_by(self, other: Self) -> Self:
        """The examples of both, the other's counted on from this one's last."""

    def part(self, score: str) -> Tally:
        """What this one score comes from."""
        return self

    def all(self) -> dict[str, float]:
        scores = self.of(np.arange(self.num_examples))
        return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True, slots=True, eq=False)
class CountTally(Tally):
    """`counts` is [num_examples, num_columns]; `formula` takes sums of its rows [n, num_columns] to scores [n]."""

    counts: sparse.csr_matrix
    formula: Formula

    @property
    def num_examples(self) -> int:
        return int(self.counts.shape[0])

    def of(self, picks: Picks) -> dict[str, Values]:
        flat = picks.reshape(-1, picks.shape[-1])
        num_rows, num_picked = flat.shape
        ends = np.arange(num_rows + 1) * num_picked
        times = sparse.csr_matrix((np.ones(flat.size), flat.ravel(), ends), shape=(num_rows, self.num_examples))
        scores = self.formula(np.asarray((times @ self.counts).todense(), dtype=np.float64))
        return {name: values.reshape(picks.shape[:-1]) for name, values in scores.items()}

    def followed_by(self, other: Self) -> Self:
        return type(self)(sparse.vstack((self.counts, other.counts), format="csr"), self.formula)


@dataclass(frozen=True, slots=True, eq=False)
class CorrelationTally(Tally):
    """Numbers beside gold numbers, both [num_examples]. Ranks are taken anew within every choice of examples."""

    predicted: Values
    gold: Values

    @property
    def num_examples(self) -> int:
        return len(self.gold)

    def of(self, picks: Picks) -> dict[str, Values]:
        predicted, gold = self.predicted[picks], self.gold[picks]
        return {
            "pearson": correlation(predicted, gold),
            "spearman": correlation(rankdata(predicted, axis=-1), rankdata(gold, axis=-1)),
        }

    def followed_by(self, other: Self) -> Self:
        predicted = np.concatenate((self.predicted, other.predicted))
        return type(self)(predicted, np.concatenate((self.gold, other.gold)))

    def in_ranks(self) -> CorrelationTally:
        """Predictions by their ranks: two adapters' numbers may be swapped only where they have one scale."""
        return CorrelationTally(rankdata(self.predicted), self.gold)


@dataclass(frozen=True, slots=True, eq=False)
class JoinedTally(Tally):
    """Several tallies of the same examples, each with scores of its own."""

    parts: tuple[Tally, ...]

    @property
    def num_examples(self) -> int:
        return self.parts[0].num_examples

    def of(self, picks: Picks) -> dict[str, Values]:
        return {name: values for part in self.parts for name, values in part.of(picks).items()}

    def followed_by(self, other: Self) -> Self:
        return type(self)(tuple(a.followed_by(b) for a, b in zip(self.parts, other.parts, strict=True)))

    def part(self, score: str) -> Tally:
        return next(part for part in self.parts if score in part.all())


def joined(*parts: Tally) -> JoinedTally:
    return JoinedTally(parts)


def correlation(left: Values, right: Values) -> Values:
    """Pearson's over the last axis; 0 where one side is constant."""
    left, right = (side - side.mean(axis=-1, keepdims=True) for side in (left, right))
    product = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    return ratio((left * right).sum(axis=-1), np.where(product > ENOUGH_DIFFERENCE, product, 0.0))


def counted(blocks: Sequence[Any], formula: Formula) -> CountTally:
    """`blocks` are [num_examples] or [num_examples, n], put side by side."""
    columns = [one if sparse.issparse(one) else _column(one) for one in blocks]
    return CountTally(sparse.hstack(columns, format="csr"), formula)


def _column(values: Any) -> sparse.csr_matrix:
    dense = np.asarray(values, dtype=np.float64)
    return sparse.csr_matrix(dense if dense.ndim == 2 else dense[:, None])


def means(columns: Mapping[str, NDArray[Any]]) -> CountTally:
    """Scores that are means over the examples; truth values count 0 or 1."""
    names = list(columns)
    size = len(next(iter(columns.values())))

    def formula(sums: Values) -> dict[str, Values]:
        return {name: sums[:, index] / sums[:, -1] for index, name in enumerate(names)}

    return counted([*columns.values(), np.ones(size)], formula)


def ratio(part: Values, whole: Values) -> Values:
    """0 where there is no whole."""
    part = np.asarray(part, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=np.asarray(whole) > 0)


def f1(hits: Values, predicted: Values, gold: Values) -> Values:
    return ratio(2 * hits, predicted + gold)
