"""From a pack's hidden states to each row's logits in the machine's memory. Knows heads and spans; no models, no tasks.

On a GPU nothing here waits: logits are on their way until `PendingLogits.wait`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.heads import Head
from prefixrack_adapters.packing import RowSpan, gather_states
from prefixrack_adapters.transfer import ToHost


class Share(NamedTuple):
    """What of a reading belongs to one row: lines `start` to `stop`, or one vector, and its first `width` columns."""

    row: int
    start: int
    stop: int
    width: int
    is_vector: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """Float32 values [n, width] on the device, and whose they are."""

    values: Tensor
    shares: Sequence[Share]


class PendingLogits:
    """Logits of a pack, being computed or brought over. `order[i]` is the caller's index of row i of the readings."""

    def __init__(self, readings: Sequence[Reading], order: Sequence[int]) -> None:
        self._shares = [reading.shares for reading in readings]
        self._order = order
        self._values = ToHost([reading.values for reading in readings])

    def wait(self) -> list[NDArray[np.float32]]:
        """By row, in the caller's order. Raises what went wrong on the device."""
        results: dict[int, NDArray[np.float32]] = {}
        for values, shares in zip(self._values.wait(), self._shares, strict=True):
            array = values.numpy()
            for row, start, stop, width, is_vector in shares:
                results[self._order[row]] = array[start, :width] if is_vector else array[start:stop, :width]
        return [results[index] for index in range(len(results))]


class Readout(Protocol):
    """One way to run the heads of a pack."""

    def read(self, hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
        """What the heads say of their rows, by index of the row; a row whose head is None gives its states."""


class HeadByHead:
    """Each head once for all of its rows. The default."""

    def read(self, hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
        return [read_head(hidden, spans, head, rows) for head, rows in by_head(heads)]


def read_head(hidden: Tensor, spans: Sequence[RowSpan], head: Head | None, rows: Sequence[int]) -> Reading:
    """One head over all of its rows."""
    states, counts = gather_states(hidden, [spans[row] for row in rows], head)
    values = states.float() if head is None else head(states)
    return Reading(values, shares_of(rows, counts, values.shape[1], head is not None and head.is_pooled))


def shares_of(rows: Sequence[int], counts: Sequence[int], width: int, is_vector: bool, first: int = 0) -> list[Share]:
    """Of rows that lie one behind the other, `counts` lines each, from line `first` on."""
    shares = []
    for row, count in zip(rows, counts, strict=True):
        shares.append(Share(row, first, first + count, width, is_vector))
        first += count
    return shares


def by_head(heads: Mapping[int, Head | None]) -> list[tuple[Head | None, list[int]]]:
    """Rows grouped by the head that reads them, so that each head runs once per pack."""
    groups: dict[int, tuple[Head | None, list[int]]] = {}
    for row, head in heads.items():
        groups.setdefault(id(head), (head, []))[1].append(row)
    return list(groups.values())
