"""Many heads at once on a GPU: a call for each depth of layers, weights read where each adapter's lie.

A call for each head would cost more than a pack: hundreds of adapters, each with its few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor

from prefixrack_adapters.gpu import kernels
from prefixrack_adapters.heads import Dense, Head
from prefixrack_adapters.transfer import to_device

ACTIVATIONS: dict[str | None, int] = {None: 0, "tanh": 1, "gelu": 2, "relu": 3}  # as kernels.dense numbers them
BLOCK_STATES, BLOCK_OUTPUTS, BLOCK_INPUTS = 16, 32, 64


class LayerLayout(NamedTuple):
    """A dense layer in memory: addresses of weight and bias (0: none), sizes, and which activation."""

    weight: int
    bias: int
    num_outputs: int
    num_inputs: int
    activation: int


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """A head's layers in memory. It says where they lie, and does not keep them there."""

    layers: Sequence[LayerLayout]

    @classmethod
    def of(cls, head: Head) -> HeadLayout | None:
        """None where `logits_of` cannot compute it: it takes float32 layers and the activations that it has."""
        are_right = [
            layer.weight.dtype == torch.float32
            and layer.weight.is_contiguous()
            and layer.activation in ACTIVATIONS
            and layer.norm_eps is None
            for layer in head.layers
        ]
        return cls([_layer_layout(layer) for layer in head.layers]) if head.layers and all(are_right) else None

    @property
    def num_outputs(self) -> int:
        return self.layers[-1].num_outputs


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
        (*layout.layers[level], first, min(BLOCK_STATES, end - first))
        for layout, start, num in groups
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


def _layer_layout(layer: Dense) -> LayerLayout:
    bias = 0 if layer.bias is None else layer.bias.data_ptr()
    num_outputs, num_inputs = layer.weight.shape
    return LayerLayout(layer.weight.data_ptr(), bias, num_outputs, num_inputs, ACTIVATIONS[layer.activation])
