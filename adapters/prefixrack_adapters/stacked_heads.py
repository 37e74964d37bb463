"""Small heads of one row each, a kind of them at once: on a CPU a call for each costs more than its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.heads import MEANS, Dense, Head
from prefixrack_adapters.native.heads import NativeHeads, compiled_heads
from prefixrack_adapters.packing import RowSpan, picked, picked_tokens
from prefixrack_adapters.readout import Reading, by_head, read_head, shares_of

MAX_OUTPUTS = 32  # weights are copied to lie behind each other: with 64 outputs that takes as long as a call for each


class RowHead(NamedTuple):
    """A row and the head that no other row of its pack has."""

    row: int
    head: Head

    @property
    def layer(self) -> Dense:
        return self.head.layers[0]

    @property
    def kind(self) -> tuple[object, ...]:
        """What those that are read at once have in common."""
        weight = self.layer.weight
        return weight.shape, weight.dtype, weight.is_contiguous(), self.layer.bias is None


class StackedHeads:
    """A `Readout`: linear heads that read one vector of one row are stacked, the others are read one by one."""

    def read(self, hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
        readings: list[Reading] = []
        kinds: dict[tuple[object, ...], list[RowHead]] = {}
        for head, rows in by_head(heads):
            if head is not None and len(rows) == 1 and can_be_stacked(head):
                only = RowHead(rows[0], head)
                kinds.setdefault(only.kind, []).append(only)
            else:
                readings.append(read_head(hidden, spans, head, rows))
        return [*readings, *(read_stacked(hidden, spans, members) for members in kinds.values())]


def can_be_stacked(head: Head) -> bool:
    if len(head.layers) != 1 or not head.is_pooled or head.gather in MEANS:
        return False
    layer = head.layers[0]
    return layer.activation is None and layer.norm_eps is None and layer.weight.shape[0] <= MAX_OUTPUTS


def read_stacked(hidden: Tensor, spans: Sequence[RowSpan], members: Sequence[RowHead]) -> Reading:
    """Members of one kind."""
    places = np.fromiter((picked_tokens(spans[row], head.gather).start for row, head in members), dtype=np.int64)
    layers = [member.layer for member in members]
    kernel = compiled_heads() if NativeHeads.takes(layers[0], hidden) else None
    values = stacked_values(hidden, places, layers) if kernel is None else kernel(hidden, places, layers)
    rows = [row for row, _ in members]
    return Reading(values, shares_of(rows, [1] * len(rows), values.shape[1], is_vector=True))


def stacked_values(hidden: Tensor, places: NDArray[np.int64], layers: Sequence[Dense]) -> Tensor:
    """A product and its sum: for so few outputs faster than a batched product of matrices."""
    weights = torch.stack([layer.weight for layer in layers])
    states = picked(hidden, places).to(weights.dtype)
    values = (weights * states.unsqueeze(1)).sum(dim=-1)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if biases:
        values += torch.stack(biases)
    return values.float()
