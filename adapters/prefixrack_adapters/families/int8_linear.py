"""A linear layer with weights in int8, for a CPU. Knows no transformers.

Weights are w = q * scale of their output (symmetric, from the largest weight of that output), activations x = q * scale
of their token, found anew for each token. So the sums of a token's products are exact integers, whatever else is in the
pack, and a row's answer cannot depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.families.fused_linear import Activation
from prefixrack_adapters.families.int8_arithmetic import LARGEST, arithmetic_for
from prefixrack_adapters.native.int8 import Channels, Quantised


class Int8Linear:
    """y = activation(x W + b); several layers of one input side by side are one product.

    The weights of `linears` are copied once, in int8, so that the caller can let go of them.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        parts = [_quantised(linear.weight.detach()) for linear in linears]
        self._weight = torch.cat([part.values for part in parts])  # [out_features, in_features]
        scales = torch.cat([part.scales for part in parts])
        self._channels = Channels(scales, torch.cat([linear.bias.detach().float() for linear in linears]))
        self._steps = arithmetic_for(*self._weight.shape)

    def quantise(self, states: Tensor) -> Quantised:
        """States [T, in_features] as this layer multiplies them."""
        return self._steps.quantise(states)

    def __call__(self, states: Quantised, out: Tensor) -> Tensor:
        """[T, in_features] → [T, out_features], in `out`."""
        return self._steps.dequantise(self._sums(states), states.scales, self._channels, out)

    def activated(self, states: Quantised, activation: Activation) -> Quantised:
        """Activated, in int8 for the next layer: [T, out_features]."""
        return self._steps.requantise(self._sums(states), states.scales, self._channels, activation)

    def _sums(self, states: Quantised) -> Tensor:
        return torch._int_mm(states.values, self._weight.t())


def _quantised(weight: Tensor) -> Quantised:
    """By output. Computed in float32 from what is stored; an output whose weights are all zeros has scale 0."""
    exact = weight.float()
    scales = exact.abs().amax(dim=1) / LARGEST
    return Quantised((exact / scales.clamp(min=1e-30)[:, None]).round().to(torch.int8), scales)


@cache
def check_products() -> None:
    """Raises UnsupportedBackbone where this processor's sums of int8 products are not exact.

    Without its own instructions for them (VNNI, AMX), some libraries add pairs of products up in 16 bits.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    try:
        sums = [torch._int_mm(one, largest.t()) for one in (largest, -largest)]
        is_exact = all(
            bool((of_one == sign * 64 * 127 * 127).all()) for of_one, sign in zip(sums, (1, -1), strict=True)
        )
        reason = "sums overflow"
    except (AttributeError, RuntimeError) as error:  # torch does not promise to keep this operator
        is_exact, reason = False, str(error).partition("\n")[0]
    if not is_exact:
        raise UnsupportedBackbone(f"int8 is not computed exactly here ({reason}): use bfloat16 or float32")
