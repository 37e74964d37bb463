"""A linear layer for inference: weights in the layout that the processor's kernel reads. Knows no transformers.

On a CPU with matrix tiles (AMX) that is a kernel of our own for bfloat16 (`native/tile_layers.py`), else oneDNN's,
which does what follows a matrix product (an activation, a sum) while the result is still in the cache. Those operators
are what `torch.compile` puts in place of linear layers with frozen weights
(`torch/_inductor/fx_passes/mkldnn_fusion.py`); they have no gradients, and torch does not promise to keep them. Where
they are missing, or fail on a trial, the same arithmetic runs as separate operations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.gpu import has_kernels
from prefixrack_adapters.native.tile_layers import TileLinear

Activation = Literal["none", "gelu", "gelu_tanh", "relu"]
FUSED: Final = {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}
# As configurations of transformers name them.
ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
LOG = logging.getLogger(__name__)


class FusedLinear:
    """y = activation(x W + b), or x W + b + residual; several layers of one input side by side are one product.

    The weights of `linears` are copied once, so that the caller can let go of them.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        with torch.no_grad():
            weight = torch.cat([linear.weight for linear in linears])
            self._bias = torch.cat([linear.bias for linear in linears])
            self.tiles = TileLinear.of(weight, self._bias)
        if self.tiles is not None:
            return
        self._is_packed = weight.device.type == "cpu" and has_packed_kernels(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._is_packed else weight

    @property
    def compiles_sizes(self) -> bool:
        """Whether its kernel is compiled for each number of tokens."""
        return self.tiles is None and self._is_packed

    def __call__(self, states: Tensor, activation: Activation = "none") -> Tensor:
        """states [T, in_features] → [T, out_features]."""
        if self.tiles is not None:
            return self.tiles(states, activation)
        if not self._is_packed:
            return activated(F.linear(states, self._weight, self._bias), activation)
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, FUSED[activation][0], [], FUSED[activation][1]
        )
        return fused

    def plus(self, states: Tensor, residual: Tensor) -> Tensor:
        """As a call, with `residual` [T, out_features] added."""
        if self.tiles is not None:
            return self.tiles(states).add_(residual)
        if not self._is_packed:
            return F.linear(states, self._weight, self._bias).add_(residual)
        fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(states, residual, self._weight, self._bias, "add")
        return fused


def activated(states: Tensor, activation: Activation) -> Tensor:
    """`states` may be overwritten: the GPU's kernel works in place."""
    match activation:
        case "gelu":
            return gelu(states)
        case "gelu_tanh":
            return F.gelu(states, approximate="tanh")
        case "relu":
            return F.relu(states)
    return states


def gelu(states: Tensor) -> Tensor:
    if states.is_cuda and has_kernels():
        from prefixrack_adapters.gpu import activation  # Triton is not there without a GPU

        return activation.gelu(states)
    return F.gelu(states)


@cache
def has_packed_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused kernels are there for a dtype and give what separate operations give."""
    try:
        return _is_right(dtype)
    except (AttributeError, RuntimeError) as error:  # an operator is gone, or refuses this processor or dtype
        LOG.warning("no fused linear layers in %s here, plain ones instead: %s", dtype, str(error).partition("\n")[0])
        return False


@torch.inference_mode()
def _is_right(dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)
    states, weight, residual = (torch.randn(16, 16, generator=generator).to(dtype) for _ in range(3))
    packed, bias = torch.ops.mkldnn._reorder_linear_weight(weight), residual[0]
    plain = F.linear(states, weight, bias).float()
    with_gelu = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "gelu", [], "none").float()
    with_sum = torch.ops.mkldnn._linear_pointwise.binary(states, residual, packed, bias, "add").float()
    bound = 1e-4 if dtype == torch.float32 else 0.1
    is_close = torch.allclose(with_gelu, F.gelu(plain), atol=bound, rtol=bound)
    return is_close and torch.allclose(with_sum, plain + residual.float(), atol=bound, rtol=bound)
