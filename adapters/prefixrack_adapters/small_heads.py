"""Small heads of all rows, a kind of them at once: on a CPU a call for each costs more than its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.dense import Dense
from prefixrack_adapters.head_layout import LayerLayout
from prefixrack_adapters.heads import MEANS, Head
from prefixrack_adapters.native.heads import NativeHeads, compiled_heads
from prefixrack_adapters.packing import RowSpan, picked, picked_tokens
from prefixrack_adapters.readout import HeadByHead, Reading, shares_of

MAX_OUTPUTS = 256
# Where weights are copied to lie behind each other: with 64 outputs that takes as long as a call for each.
MAX_STACKED = 32


class Kind(NamedTuple):
    """What heads that are read at once have in common."""

    num_outputs: int
    num_inputs: int
    has_bias: bool
    is_pooled: bool


class Member(NamedTuple):
    """A row, and the only layer of its head."""

    row: int
    head: Head
    layer: LayerLayout


class SmallHeads:
    """A `Readout`: linear heads of few outputs are read together, the others one by one.

    With a compiler, what such a head says of a row does not depend, to the last bit, on what else is in the pack.
    Without one, those that read every token or have more than `MAX_STACKED` outputs are among the others.
    """

    def read(self, hidden: Tensor, spans: Sequence[RowSpan], heads: Mapping[int, Head | None]) -> list[Reading]:
        kernel = compiled_heads() if NativeHeads.takes(hidden) else None
        others: dict[int, Head | None] = {}
        kinds: dict[Kind, list[Member]] = {}
        for row, head in heads.items():
            layer = None if head is None else small_layer(head, hidden.shape[1], stacked=kernel is None)
            if head is None or layer is None:
                others[row] = head
            else:
                kind = Kind(layer.num_outputs, layer.num_inputs, layer.bias != 0, head.is_pooled)
                kinds.setdefault(kind, []).append(Member(row, head, layer))
        together = [read_together(hidden, spans, kind, members, kernel) for kind, members in kinds.items()]
        return [*HeadByHead().read(hidden, spans, others), *together]


def small_layer(head: Head, num_inputs: int, stacked: bool) -> LayerLayout | None:
    """None for a head that is not read together with others."""
    layout = head.layout
    if layout is None or len(layout.layers) != 1 or head.gather in MEANS or (stacked and not head.is_pooled):
        return None
    layer = layout.layers[0]
    is_small = layer.num_outputs <= (MAX_STACKED if stacked else MAX_OUTPUTS)
    return layer if is_small and layer.num_inputs == num_inputs and layer.activation is None else None


def read_together(
    hidden: Tensor, spans: Sequence[RowSpan], kind: Kind, members: Sequence[Member], kernel: NativeHeads | None
) -> Reading:
    """Members of one kind; pooled ones where there is no kernel."""
    picks = [picked_tokens(spans[row], head.gather) for row, head, _ in members]
    counts = [len(pick) for pick in picks]
    places = np.fromiter(chain.from_iterable(picks), dtype=np.int64, count=sum(counts))
    if kernel is None:
        values = stacked_values(hidden, places, [member.head.layers[0] for member in members])
    else:
        values = kernel(hidden, places, [member.layer for member in members], counts)
    rows = [member.row for member in members]
    return Reading(values, shares_of(rows, counts, kind.num_outputs, kind.is_pooled))


def stacked_values(hidden: Tensor, places: NDArray[np.int64], layers: Sequence[Dense]) -> Tensor:
    """A product and its sum: for so few outputs faster than a batched product of matrices."""
    weights = torch.stack([layer.weight for layer in layers])
    states = picked(hidden, places).to(weights.dtype)
    values = (weights * states.unsqueeze(1)).sum(dim=-1)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if biases:
        values += torch.stack(biases)
    return values.float()
