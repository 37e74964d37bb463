"""One layer of DeBERTa as inference runs it: few large operations. Knows its arithmetic; no models, no adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from prefixrack_adapters.attention import AttentionCall, PackLayout
from prefixrack_adapters.families.disentangled import Distances, PositionTerms, Projected, attend
from prefixrack_adapters.families.fused_linear import Activation, FusedLinear
from prefixrack_adapters.families.layer_end import LayerEnd


class DebertaLayer:
    """Attention with distances, and the layer's end. `terms` are those of all distances: what a backbone's embeddings
    of distances become never changes, so it is computed once."""

    def __init__(
        self,
        layer: Any,
        call: AttentionCall,
        linears: Sequence[nn.Linear],
        terms: PositionTerms,
        activation: Activation,
    ) -> None:
        """`linears` give query, key and value."""
        self._call = call
        self._terms = PositionTerms(*(None if part is None else part.contiguous() for part in terms))
        self._num_heads = layer.attention.self.num_attention_heads
        self._inputs = FusedLinear(linears)
        self._end = LayerEnd(layer, activation)
        self.compiles_sizes = self._inputs.compiles_sizes or self._end.compiles_sizes

    def __call__(self, states: Tensor, distances: Distances | None, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        if pack.has_gates:
            pack.inputs = states
        terms = self._terms if distances is None else self._terms.of(distances)
        return self._end(attend(self._call, self._project(states), terms, distances, pack), states)

    def _project(self, states: Tensor) -> Projected:
        side_by_side = self._inputs(states).view(len(states), 3, self._num_heads, -1)
        return Projected(*(part.transpose(0, 1) for part in side_by_side.unbind(1)))
