"""Many heads at once on a GPU: a call for each depth of layers, weights read where each adapter's lie.

A call for each head would cost more than a pack: hundreds of adapters, each with its few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from prefixrack_adapters.dense import ACTIVATIONS
from prefixrack_adapters.gpu import kernels
from prefixrack_adapters.head_layout import HeadLayout
from prefixrack_adapters.transfer import to_device

ACTIVATION_NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}  # as kernels.dense has them
BLOCK_STATES, BLOCK_OUTPUTS, BLOCK_INPUTS = 16, 32, 64


class HeadStates(NamedTuple):
    """Neighbouring states that one head reads: `num` of them from `first` on."""

    layout: HeadLayout
    first: int
    num: int


def logits_of(states: Tensor, groups: Sequence[HeadStates]) -> Tensor:
    """Logits of every head, float32 [n, most_outputs]; a head with fewer outputs leaves the rest of its rows undefined.

    Each of the states [n, hidden_size] belongs to one group.
    """
    out = _between(states, max(group.layout.num_outputs for group in groups))
    for level in range(max(len(group.layout.layers) for group in groups)):
        ending = [group for group in groups if len(group.layout.layers) == level + 1]
        going_on = [group for group in groups if len(group.layout.layers) > level + 1]
        if ending:
            _run(states, out, ending, level)
        if going_on:
            inner = _between(states, max(group.layout.layers[level].num_outputs for group in going_on))
            _run(states, inner, going_on, level)
            states = inner
    return out


def _between(states: Tensor, width: int) -> Tensor:
    return torch.empty(len(states), width, dtype=torch.float32, device=states.device)


def _run(states: Tensor, out: Tensor, groups: Sequence[HeadStates], level: int) -> None:
    """One layer of each group's head, from the group's states to the same rows of `out`."""
    items = [
        (*layer[:-1], ACTIVATION_NUMBERS[layer.activation], first, min(BLOCK_STATES, end - first))
        for layout, start, num in groups
        for layer in (layout.layers[level],)
        for end in (start + num,)
        for first in range(start, end, BLOCK_STATES)
    ]
    columns = np.ascontiguousarray(np.array(items, dtype=np.int64).T)
    table = to_device(columns, states.device)
    widest = int(columns[2].max())
    kernels.dense[(len(items), triton.cdiv(widest, BLOCK_OUTPUTS))](
        *(states, out, *table.unbind(0), states.stride(0), out.stride(0)),
        BLOCK_STATES=BLOCK_STATES,
        BLOCK_OUTPUTS=BLOCK_OUTPUTS,
        BLOCK_INPUTS=BLOCK_INPUTS,
        num_warps=2,
    )
