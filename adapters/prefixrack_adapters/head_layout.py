"""Where a head's weights lie in memory, for kernels that read them in place. Knows dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from prefixrack_adapters.dense import ACTIVATIONS, Dense


class LayerLayout(NamedTuple):
    """A dense layer in memory: addresses of weight and bias (0: none), sizes, and which activation."""

    weight: int
    bias: int
    num_outputs: int
    num_inputs: int
    activation: str | None

    @classmethod
    def of(cls, layer: Dense) -> LayerLayout:
        bias = 0 if layer.bias is None else layer.bias.data_ptr()
        num_outputs, num_inputs = layer.weight.shape
        return cls(layer.weight.data_ptr(), bias, num_outputs, num_inputs, layer.activation)


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """A head's layers in memory. It says where they lie, and does not keep them there."""

    layers: Sequence[LayerLayout]

    @classmethod
    def of(cls, layers: Sequence[Dense]) -> HeadLayout | None:
        """None where no kernel computes them all: weights are float32 without gaps, and none normalises."""
        are_right = [
            layer.weight.dtype == torch.float32
            and layer.weight.is_contiguous()
            and layer.activation in ACTIVATIONS
            and layer.norm_eps is None
            for layer in layers
        ]
        return cls([LayerLayout.of(layer) for layer in layers]) if layers and all(are_right) else None

    @property
    def num_outputs(self) -> int:
        return self.layers[-1].num_outputs
