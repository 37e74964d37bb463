"""A sum and its normalisation in one kernel: the states are read and written once. Knows tensors only."""

from __future__ import annotations

import triton
from torch import Tensor, nn

from prefixrack_adapters.gpu import kernels


def add_and_normalise(states: Tensor, residual: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm(states + residual), both [T, width] and contiguous. The result is in `states`."""
    num_tokens, width = states.shape
    kernels.add_and_normalise[(num_tokens,)](
        *(states, residual, norm.weight, norm.bias, norm.eps),
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        num_warps=2,
    )
    return states
