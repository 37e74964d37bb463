"""What follows attention in a layer of BERT's form, for inference. Knows its arithmetic; no attention, no models."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prefixrack_adapters.families.fused_linear import Activation, FusedLinear
from prefixrack_adapters.families.sum_norm import SumNorm


class LayerEnd:
    """Three linear layers; a sum and a normalisation after the first, which ends attention, and after the last."""

    def __init__(self, layer: Any, activation: Activation) -> None:
        """Of a stock layer, whose weights it takes over."""
        output = layer.attention.output
        self._activation = activation
        self._output = SumNorm(FusedLinear([output.dense]), layer_norm(output.LayerNorm))
        self._up = FusedLinear([layer.intermediate.dense])
        self._down = SumNorm(FusedLinear([layer.output.dense]), layer_norm(layer.output.LayerNorm))

    def __call__(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """What attention made of the hidden states, and these: both [T, hidden_size] → [T, hidden_size]."""
        hidden = self._output(attended, hidden)
        return self._down(self._up(hidden, self._activation), hidden)


def layer_norm(stock: Any) -> nn.LayerNorm:
    """DeBERTa's first version has a class of its own for it."""
    if isinstance(stock, nn.LayerNorm):
        return stock
    norm = nn.LayerNorm(len(stock.weight), eps=stock.variance_epsilon, device="meta")
    norm.weight, norm.bias = stock.weight, stock.bias
    return norm
