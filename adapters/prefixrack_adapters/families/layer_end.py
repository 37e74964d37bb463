"""What follows attention in a layer of BERT's form, for inference. Knows its arithmetic; no attention, no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from prefixrack_adapters.families.fused_linear import Activation, FusedLinear
from prefixrack_adapters.families.sum_norm import SumNorm
from prefixrack_adapters.native.tile_layers import TileLayerEnd


class LayerEnd:
    """Three linear layers; a sum and a normalisation after the first, which ends attention, and after the last."""

    def __init__(self, layer: Any, activation: Activation) -> None:
        """Of a stock layer, whose weights it takes over."""
        output = layer.attention.output
        self._activation = activation
        linears = [FusedLinear([dense]) for dense in (output.dense, layer.intermediate.dense, layer.output.dense)]
        norms = [layer_norm(norm) for norm in (output.LayerNorm, layer.output.LayerNorm)]
        self.on_tiles = _on_tiles(linears, norms, activation)
        self.compiles_sizes = any(linear.compiles_sizes for linear in linears)
        first, self._up, last = linears
        self._output, self._down = SumNorm(first, norms[0]), SumNorm(last, norms[1])

    def __call__(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """What attention made of the hidden states, and these: both [T, hidden_size] → [T, hidden_size]."""
        if self.on_tiles is not None:
            return self.on_tiles(attended, hidden)
        hidden = self._output(attended, hidden)
        return self._down(self._up(hidden, self._activation), hidden)


def _on_tiles(
    linears: Sequence[FusedLinear], norms: Sequence[nn.LayerNorm], activation: Activation
) -> TileLayerEnd | None:
    """All of it in one kernel, where the processor has tiles that compute each part."""
    tiles = [linear.tiles for linear in linears if linear.tiles is not None]
    if len(tiles) < len(linears) or not all(map(TileLayerEnd.takes, norms)):
        return None
    return TileLayerEnd(tiles, norms, activation)


def layer_norm(stock: Any) -> nn.LayerNorm:
    """DeBERTa's first version has a class of its own for it."""
    if isinstance(stock, nn.LayerNorm):
        return stock
    norm = nn.LayerNorm(len(stock.weight), eps=stock.variance_epsilon, device="meta")
    norm.weight, norm.bias = stock.weight, stock.bias
    return norm
