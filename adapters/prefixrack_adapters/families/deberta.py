"""DeBERTa: disentangled attention of packed rows on the stock model's weights. Knows no tasks and no adapters.

Stock transformers computes this attention inside its modules and never asks the attention interface, so the layers are
walked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from prefixrack_adapters.attention import AttentionCall, PackLayout
from prefixrack_adapters.families.deberta_layer import DebertaLayer
from prefixrack_adapters.families.disentangled import Distances, Places, PositionTerms, Projected, attend
from prefixrack_adapters.families.fused_linear import ACTIVATIONS, Activation
from prefixrack_adapters.families.replacing import replace_layers
from prefixrack_adapters.families.stock import Encoder, load_stock_model

Layer = Callable[[Tensor, Distances | None, PackLayout], Tensor]
NO_TERMS = PositionTerms(None, None)


class Deberta(Encoder):
    """Version 1. Its relative positions reach up to `max_relative_positions`; what is farther counts as that far."""

    looks_at_longest_row = True  # for the distances that its tokens can have

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # Kept: while a pass is recorded, nothing may be copied from the CPU.
        self._places: dict[tuple[int, torch.device], Places] = {}
        self._fused: list[DebertaLayer] | None = None

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        # Version 1 fixes the dtype of its query and value biases, so loading alone leaves them in float32.
        return cls(load_stock_model(folder, dtype, "eager").to(dtype))

    @torch.no_grad()
    def optimise_for_inference(self) -> None:
        activation = ACTIVATIONS.get(self.model.config.hidden_act)  # type: ignore[union-attr, arg-type]
        if self._fused is None and activation is not None:
            make = partial(self._fuse, embeddings=self.encoder.get_rel_embedding(), activation=activation)
            self._fused = replace_layers(self.encoder.layer, make)

    def _fuse(self, layer: Any, index: int, embeddings: Tensor | None, activation: Activation) -> DebertaLayer:
        module = layer.attention.self
        terms = NO_TERMS if embeddings is None else self._position_terms(module, embeddings)
        return DebertaLayer(layer, call_of(index, module), self._linears(module), terms, activation)

    @property
    def is_recordable(self) -> bool:
        """A convolution (some of version 2) looks at every row's length, and so does attention without distances."""
        return bool(self.encoder.relative_attention) and getattr(self.encoder, "conv", None) is None

    @property
    def compiles_sizes(self) -> bool:
        return self._fused is not None and self._fused[0].compiles_sizes

    @property
    def encoder(self) -> Any:
        return self.model.encoder

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        embedded = states = self.embed(words, segments, positions)
        distances = self._distances(max(pack.lengths), words.device)
        layers: Sequence[Layer] = self._fused or self._stock_layers(distances)
        for index, layer in enumerate(layers):
            states = layer(states, distances, pack)
            if index == 0:
                states = self._after_first_layer(embedded, states, pack)
        return states

    def _stock_layers(self, distances: Distances | None) -> Sequence[Layer]:
        embeddings = None if distances is None else distances.of(self.encoder.get_rel_embedding())
        return [partial(self._run_stock, index, layer, embeddings) for index, layer in enumerate(self.encoder.layer)]

    def _run_stock(
        self,
        index: int,
        layer: Any,
        embeddings: Tensor | None,
        states: Tensor,
        distances: Distances | None,
        pack: PackLayout,
    ) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]. `embeddings` are those of the distances. The stock self-attention is
        never called itself."""
        module = layer.attention.self
        if pack.has_gates:
            pack.inputs = states
        terms = NO_TERMS
        if embeddings is not None:
            terms = self._position_terms(module, module.pos_dropout(embeddings))
        projected = self._project(module, states)
        attended = attend(call_of(index, module), projected, terms, distances, pack, module.dropout)
        attended = layer.attention.output(attended, states)
        output: Tensor = layer.output(layer.intermediate(attended), attended)
        return output

    def _distances(self, longest_row: int, device: torch.device) -> Distances | None:
        """None for a model without relative positions."""
        if not self.encoder.relative_attention:
            return None
        key = (longest_row, device)
        if key not in self._places:
            reach = len(self.encoder.rel_embeddings.weight) // 2
            self._places[key] = self._places_of(longest_row, reach, device)
        return Distances(self._places[key])

    def _places_of(self, longest_row: int, reach: int, device: torch.device) -> Places:
        """On the CPU whatever the device: in a last bit its logarithms put a distance on the other side of a bucket's
        border, and reading the ends back from a GPU would wait for it in every pack."""
        places = (self._steps(torch.arange(1 - longest_row, longest_row)) + reach).clamp(0, 2 * reach - 1)
        places -= (first := int(places[0]))
        return Places(first, places.to(device), places.tolist())

    def _steps(self, distances: Tensor) -> Tensor:
        """The number of embeddings between a distance's own and that of distance 0."""
        return distances

    def _project(self, module: Any, states: Tensor) -> Projected:
        """The key has no bias. `in_proj` holds query, key and value of head 0, then of head 1, and so on."""
        heads = module.num_attention_heads
        query, key, value = module.in_proj(states).unflatten(-1, (heads, -1)).transpose(0, 1).chunk(3, dim=-1)
        query_bias, value_bias = (bias.view(heads, 1, -1) for bias in (module.q_bias, module.v_bias))
        return Projected(query + query_bias, key, value + value_bias)

    def _linears(self, module: Any) -> list[nn.Linear]:
        """Those of query, key and value, whole: `in_proj` has them head by head."""
        heads = module.num_attention_heads
        weights = module.in_proj.weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(1, 2)
        biases = (module.q_bias, torch.zeros_like(module.q_bias), module.v_bias)
        return [linear_of(weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def _position_terms(self, module: Any, embeddings: Tensor) -> PositionTerms:
        """Of some embeddings [n, hidden_size]."""
        keys = queries = None
        if "c2p" in module.pos_att_type:
            keys = by_head(module.pos_proj, embeddings, module)
        if "p2c" in module.pos_att_type:
            queries = by_head(module.pos_q_proj, embeddings, module)
        return PositionTerms(keys, queries)

    def _after_first_layer(self, embedded: Tensor, states: Tensor, pack: PackLayout) -> Tensor:
        return states


def call_of(index: int, module: Any) -> AttentionCall:
    """The attention of one layer: scores are divided by more the more terms they have."""
    num_terms = 1 + len(module.pos_att_type)
    return AttentionCall(index, (module.attention_head_size * num_terms) ** -0.5)


def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return linear


def by_head(projection: nn.Module, states: Tensor, module: Any) -> Tensor:
    """[n, hidden_size] → [num_heads, n, head_dim]."""
    projected: Tensor = projection(states)
    heads: Tensor = projected.unflatten(-1, (module.num_attention_heads, -1))
    return heads.transpose(0, 1)
