"""BERT, ELECTRA, RoBERTa, XLM-R: layers of one form, which for inference run as few large operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.attention import AttentionCall, PackLayout, attend_side_by_side
from prefixrack_adapters.families.bert_weights import load_bert_weights
from prefixrack_adapters.families.casting import cast_parameters
from prefixrack_adapters.families.embedding_sum import EmbeddingSum
from prefixrack_adapters.families.fused_linear import ACTIVATIONS, Activation, FusedLinear
from prefixrack_adapters.families.int8_layer import Int8Layer
from prefixrack_adapters.families.layer_end import LayerEnd
from prefixrack_adapters.families.replacing import replace_layers
from prefixrack_adapters.families.stock import Encoder
from prefixrack_adapters.native.attention import NativeAttention, sees_everything
from prefixrack_adapters.native.tile_layers import SQUARE, TileLayer, TileLayers


class Bert(Encoder):
    """Until `optimise_for_inference` the stock model; afterwards its layers are `FusedLayer`s, or `Int8Layer`s.

    Where it is loaded for inference, the stock model is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._fused: list[FusedLayer] | list[Int8Layer] | None = None
        self._on_tiles: TileLayers | None = None
        self._embedding_sum: EmbeddingSum | None = None

    @classmethod
    def load_for_inference(cls, folder: Path, dtype: torch.dtype) -> Self:
        weights = load_bert_weights(folder, dtype)
        if weights is None or weights.config.hidden_act not in ACTIVATIONS:
            return cls.load(folder, dtype)
        return cls(weights)

    def optimise_for_inference(self) -> None:
        activation = ACTIVATIONS.get(self.config.hidden_act)
        if self._fused is None and activation is not None:
            fused = replace_layers(self._layers, partial(FusedLayer, activation=activation))
            self._fused, self._on_tiles = fused, _together([layer.on_tiles() for layer in fused])
            self._embedding_sum = EmbeddingSum.of(self.model.embeddings)

    def quantise(self, dtype: torch.dtype) -> None:
        activation = ACTIVATIONS.get(self.config.hidden_act)
        if activation is None:
            raise UnsupportedBackbone(
                f"hidden_act {self.config.hidden_act!r} is not computed in int8: {', '.join(ACTIVATIONS)} are; use "
                "bfloat16 or float32"
            )
        self._fused = replace_layers(self._layers, partial(Int8Layer, activation=activation, dtype=dtype))
        cast_parameters(self.model, dtype)
        self.config.dtype = dtype
        self._embedding_sum = EmbeddingSum.of(self.model.embeddings)

    @property
    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.encoder.layer  # type: ignore[union-attr, assignment]
        return layers

    @property
    def is_recordable(self) -> bool:
        return self._fused is not None

    @property
    def compiles_sizes(self) -> bool:
        return self._fused is not None and self._fused[0].compiles_sizes

    @property
    def config(self) -> Any:
        return self.model.config

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        if self._fused is None:
            return super().hidden_states(words, segments, positions, pack)
        embed = self._embedding_sum or self.embed
        hidden = embed(words, segments, positions)
        if hasattr(self.model, "embeddings_project"):  # ELECTRA's word vectors may be narrower than its layers
            hidden = self.model.embeddings_project(hidden)  # type: ignore[operator]
        if self._on_tiles is not None and isinstance(pack.backend, NativeAttention) and sees_everything(pack):
            starts, prefixes = pack.backend.addresses(pack, hidden.dtype)
            return self._on_tiles(hidden, starts, prefixes.entries)
        for layer in self._fused:
            hidden = layer(hidden, pack)
        return hidden


class FusedLayer:
    """One layer's arithmetic, in inference: attention, then two linear layers, a sum and a normalisation after each."""

    def __init__(self, layer: Any, index: int, activation: Activation) -> None:
        attention = layer.attention.self
        self._head_dim = attention.attention_head_size
        self._call = AttentionCall(index, self._head_dim**-0.5)
        self._inputs = FusedLinear([attention.query, attention.key, attention.value])
        self._end = LayerEnd(layer, activation)
        self.compiles_sizes = self._inputs.compiles_sizes or self._end.compiles_sizes

    def on_tiles(self) -> TileLayer | None:
        """The same layer for one kernel, where the processor has tiles that compute each part."""
        inputs, end = self._inputs.tiles, self._end.on_tiles
        if inputs is None or end is None or self._head_dim % SQUARE or inputs.layer.outputs != 3 * end.width:
            return None
        return TileLayer(inputs, self._head_dim, self._call.scaling, end)

    def __call__(self, hidden: Tensor, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        return self._end(self._attend(hidden, pack), hidden)

    def _attend(self, hidden: Tensor, pack: PackLayout) -> Tensor:
        if pack.has_gates:
            pack.inputs = hidden
        return attend_side_by_side(self._call, self._inputs(hidden), self._head_dim, pack)


def _together(layers: Sequence[TileLayer | None]) -> TileLayers | None:
    """None where a layer cannot be computed so."""
    on_tiles = [layer for layer in layers if layer is not None]
    return TileLayers(on_tiles) if on_tiles and len(on_tiles) == len(layers) else None
