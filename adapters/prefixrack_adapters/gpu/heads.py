"""Many heads at once on a GPU: a call for each depth of layers, weights read where each adapter's lie.

A call for each head would cost more than a pack: hundreds of adapters, each with its few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
from torch import Tensor

from prefixrack_adapters.gpu import kernels
from prefixrack_adapters.heads import Dense, Head
from prefixrack_adapters.transfer import to_device

ACTIVATIONS: dict[str | None, int] = {None: 0, "tanh": 1, "gelu": 2, "relu": 3}  # as kernels.dense numbers them
BLOCK_STATES, BLOCK_OUTPUTS, BLOCK_INPUTS = 16, 32, 64


@dataclass(frozen=True, slots=True)
class HeadStates:
    """Neighbouring states that one head reads: `num` of them."""

    head: Head
    num: int


def can_run_together(head: Head) -> bool:
    """Whether `logits_of` computes this head: float32 layers, with activations that the kernel has."""
    return bool(head.layers) and all(
        layer.weight.dtype == torch.float32 and layer.weight.is_contiguous() and layer.activation in ACTIVATIONS
        for layer in head.layers
    )


def logits_of(states: Tensor, groups: Sequence[HeadStates]) -> Tensor:
    """Logits of every head, float32 [n, most_outputs]; a head with fewer outputs leaves the rest of its rows undefined.

    states [n, hidden_size] lie in the order of the groups.
    """
    depth = max(len(group.head.layers) for group in groups)
    most_outputs = max(group.head.layers[-1].weight.shape[0] for group in groups)
    out = torch.empty(len(states), most_outputs, dtype=torch.float32, device=states.device)
    offsets = _offsets(groups)
    between = states
    for level in range(depth):
        going_on = [group for group in groups if len(group.head.layers) > level + 1]
        ending = [group for group in groups if len(group.head.layers) == level + 1]
        if ending:
            _run(between, out, ending, level, offsets)
        if going_on:
            width = max(group.head.layers[level].weight.shape[0] for group in going_on)
            wider = torch.empty(len(states), width, dtype=torch.float32, device=states.device)
            _run(between, wider, going_on, level, offsets)
            between = wider
    return out


def _offsets(groups: Sequence[HeadStates]) -> dict[int, int]:
    """The first state of each group."""
    starts = np.cumsum([0, *(group.num for group in groups)])
    return {id(group): int(start) for group, start in zip(groups, starts[:-1], strict=True)}


def _run(states: Tensor, out: Tensor, groups: Sequence[HeadStates], level: int, offsets: dict[int, int]) -> None:
    """One layer of each group's head, from the group's states to the same rows of `out`."""
    columns = np.array(
        [
            (*_described(group.head.layers[level]), offsets[id(group)] + first, min(BLOCK_STATES, group.num - first))
            for group in groups
            for first in range(0, group.num, BLOCK_STATES)
        ],
        dtype=np.int64,
    ).T
    table = to_device(np.ascontiguousarray(columns), states.device)
    widest = int(columns[2].max())
    kernels.dense[(columns.shape[1], triton.cdiv(widest, BLOCK_OUTPUTS))](
        *(states, out, *table.unbind(0), states.stride(0), out.stride(0)),
        BLOCK_STATES=BLOCK_STATES,
        BLOCK_OUTPUTS=BLOCK_OUTPUTS,
        BLOCK_INPUTS=BLOCK_INPUTS,
        num_warps=2,
    )


def _described(layer: Dense) -> tuple[int, int, int, int, int]:
    """Address of the weight, of the bias (0: none), outputs, inputs, activation."""
    bias = 0 if layer.bias is None else layer.bias.data_ptr()
    return (layer.weight.data_ptr(), bias, *layer.weight.shape, ACTIVATIONS[layer.activation])
