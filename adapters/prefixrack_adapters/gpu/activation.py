"""GELU in one kernel, in place: three quarters of the time of torch's own. Knows tensors only."""

from __future__ import annotations

import triton
from torch import Tensor

from prefixrack_adapters.gpu import kernels

BLOCK, NUM_WARPS = 4096, 8  # the fastest of five on an H200, for 8,192 tokens of 4,096 values


def gelu(states: Tensor) -> Tensor:
    """Of contiguous states in any shape. The result is in `states`."""
    kernels.gelu[(triton.cdiv(states.numel(), BLOCK),)](states, states.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return states
