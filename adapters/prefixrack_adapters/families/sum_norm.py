"""A linear layer, a sum and a normalisation, in inference: the end of each half of a layer. Knows no transformers."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.families.fused_linear import FusedLinear
from prefixrack_adapters.gpu import has_kernels
from prefixrack_adapters.native.norm import NativeNorm, compiled_norm

Kernel = Callable[[Tensor, Tensor, nn.LayerNorm], Tensor]


class SumNorm:
    """LayerNorm(linear(states) + residual). Sum and normalisation are one kernel where there is one."""

    def __init__(self, linear: FusedLinear, norm: nn.LayerNorm) -> None:
        self._linear, self._norm = linear, norm
        self._kernel = _kernel_for(norm)

    def __call__(self, states: Tensor, residual: Tensor) -> Tensor:
        """states [T, in_features], residual [T, out_features] → [T, out_features]."""
        if self._kernel is not None:
            return self._kernel(self._linear(states), residual, self._norm)
        norm = self._norm
        summed = self._linear.plus(states, residual)
        return F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _kernel_for(norm: nn.LayerNorm) -> Kernel | None:
    if norm.weight.is_cuda and has_kernels():
        from prefixrack_adapters.gpu.norm import add_and_normalise  # Triton is not there without a GPU

        return add_and_normalise
    return compiled_norm() if NativeNorm.takes(norm) else None
