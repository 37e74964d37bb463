"""One layer of DeBERTa as inference runs it: few large operations. Knows its arithmetic; no models, no adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from prefixrack_adapters.attention import AttentionCall, PackLayout
from prefixrack_adapters.families.disentangled import Distances, PositionTerms, Projected, attend
from prefixrack_adapters.families.fused_linear import Activation, FusedLinear
from prefixrack_adapters.families.sum_norm import SumNorm


class DebertaLayer:
    """Attention, then two linear layers, a sum and a normalisation after each. `terms` are those of all distances: what
    a backbone's embeddings of distances become never changes, so it is computed once."""

    def __init__(
        self,
        layer: Any,
        call: AttentionCall,
        linears: Sequence[nn.Linear],
        terms: PositionTerms,
        activation: Activation,
    ) -> None:
        """`linears` give query, key and value."""
        attention = layer.attention
        self._call = call
        self._terms = PositionTerms(*(None if part is None else part.contiguous() for part in terms))
        self._num_heads = attention.self.num_attention_heads
        self._activation = activation
        self._inputs = FusedLinear(linears)
        self._output = SumNorm(FusedLinear([attention.output.dense]), layer_norm(attention.output.LayerNorm))
        self._up = FusedLinear([layer.intermediate.dense])
        self._down = SumNorm(FusedLinear([layer.output.dense]), layer_norm(layer.output.LayerNorm))

    def __call__(self, states: Tensor, distances: Distances | None, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        if pack.has_gates:
            pack.inputs = states
        terms = self._terms if distances is None else self._terms.of(distances)
        attended = attend(self._call, self._project(states), terms, distances, pack)
        states = self._output(attended, states)
        return self._down(self._up(states, self._activation), states)

    def _project(self, states: Tensor) -> Projected:
        side_by_side = self._inputs(states).view(len(states), 3, self._num_heads, -1)
        return Projected(*(part.transpose(0, 1) for part in side_by_side.unbind(1)))


def layer_norm(stock: Any) -> nn.LayerNorm:
    """Version 1 has a class of its own for it."""
    if isinstance(stock, nn.LayerNorm):
        return stock
    norm = nn.LayerNorm(len(stock.weight), eps=stock.variance_epsilon, device="meta")
    norm.weight, norm.bias = stock.weight, stock.bias
    return norm
