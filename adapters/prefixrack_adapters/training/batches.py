"""Batches: which items make a step. Knows lengths and a seed; no tokens and no torch modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np


class BatchSampler:
    """Shuffled lists of indices, the same for the same seed and epoch, and as many in every epoch.

    `batch_size` items make a batch, or, with `batch_tokens`, neighbours in the shuffled order that have about so many
    tokens together (at least; and a batch is never less than one item).
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, batch_tokens: int | None, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        if self._batch_tokens is None:
            return -(-len(self._lengths) // self._batch_size)
        # Rounded down, and no batch smaller than the longest item: then none comes out empty.
        return max(1, sum(self._lengths) // max(self._batch_tokens, *self._lengths))

    def __iter__(self) -> Iterator[list[int]]:
        order: list[int] = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._lengths)).tolist()
        if self._batch_tokens is None:
            starts = range(0, len(order), self._batch_size)
            yield from (order[start : start + self._batch_size] for start in starts)
            return
        ends = list(accumulate(self._lengths[index] for index in order))
        batches: list[list[int]] = [[] for _ in range(len(self))]
        for index, end in zip(order, ends, strict=True):
            middle = end - self._lengths[index] / 2
            batches[int(middle / ends[-1] * len(batches))].append(index)
        yield from batches
