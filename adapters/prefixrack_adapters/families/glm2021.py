"""GLM of 2021 (Du et al., arXiv 2103.10360) from SwissArmyTransformer's tensors: no stock class exists. Knows no rows.

Layer normalisation before attention and before the feed-forward part, the tanh approximation of GELU, learnt positions
of two kinds added to the word vectors: the place in the text, and the place inside a blank that is being filled (0
outside of blanks). Prefixes are those of SwissArmyTransformer's `PTuningV2Mixin`: they move no positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.architectures import ARCHITECTURES, GLM_2021, GLM_2021_BLOCKS
from prefixrack_adapters.attention import AttentionCall, PackLayout
from prefixrack_adapters.families.assigning import Embedding, Linear, assign_weights
from prefixrack_adapters.families.base import Family
from prefixrack_adapters.families.casting import cast_parameters
from prefixrack_adapters.spec import read_config

DEFAULT_EPSILON = 1e-5


class GlmLayer(nn.Module):
    """One transformer layer, its modules named as the tool names their tensors."""

    def __init__(self, index: int, width: int, inner: int, num_heads: int, epsilon: float) -> None:
        super().__init__()
        self.index, self.num_heads = index, num_heads
        self.input_layernorm = nn.LayerNorm(width, epsilon)
        self.post_attention_layernorm = nn.LayerNorm(width, epsilon)
        joint, dense = Linear(width, 3 * width), Linear(width, width)
        self.attention = nn.ModuleDict({"query_key_value": joint, "dense": dense})
        self.mlp = nn.ModuleDict({"dense_h_to_4h": Linear(width, inner), "dense_4h_to_h": Linear(inner, width)})

    def forward(self, states: Tensor, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → the same."""
        states = states + self._attend(self.input_layernorm(states), pack)
        inner = F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(states)), approximate="tanh")
        result: Tensor = states + self.mlp["dense_4h_to_h"](inner)
        return result

    def _attend(self, states: Tensor, pack: PackLayout) -> Tensor:
        thirds = self.attention["query_key_value"](states).chunk(3, dim=-1)
        by_head = (part.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)[None] for part in thirds)
        query, key, value = by_head  # [1, num_heads, T, head_dim]
        call = AttentionCall(self.index, query.shape[-1] ** -0.5)
        attended = pack.backend.attend(call, query, key, value, pack)[0]
        result: Tensor = self.attention["dense"](attended.flatten(1))
        return result


class GlmModel(nn.Module):
    """The whole model under the tool's tensor names."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, positions = config["hidden_size"], config["max_sequence_length"]
        inner = config["inner_hidden_size"]
        epsilon = config.get("layernorm_epsilon", DEFAULT_EPSILON)
        num_heads, num_layers = config["num_attention_heads"], config["num_layers"]
        layers = [GlmLayer(index, width, inner, num_heads, epsilon) for index in range(num_layers)]
        self.transformer = nn.ModuleDict(
            {
                "word_embeddings": Embedding(config["vocab_size"], width),
                "position_embeddings": Embedding(positions, width),
                "layers": nn.ModuleList(layers),
                "final_layernorm": nn.LayerNorm(width, epsilon),
            }
        )
        blocks = nn.ModuleDict({"block_position_embeddings": Embedding(positions, width)})
        self.mixins = nn.ModuleDict({"block_position_embedding": blocks})

    def layers(self) -> Iterator[GlmLayer]:
        return (layer for layer in self.modules() if isinstance(layer, GlmLayer))


class Glm2021(Family):
    """GLM-large to GLM-xxlarge in SwissArmyTransformer's layout."""

    model: GlmModel

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        """Raises UnsupportedBackbone where a tensor is missing or has another shape."""
        config = read_config(folder)
        with torch.device("meta"):
            model = GlmModel(config)
        assign_weights(
            model, folder, ARCHITECTURES[GLM_2021], "parts of a model-parallel checkpoint must be merged first"
        )
        cast_parameters(model, dtype)
        return cls(model)

    def words(self, token_ids: Tensor) -> Tensor:
        return F.embedding(token_ids, self._table("transformer.word_embeddings"))

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """`positions` [2, T]; of [T] the second kind is 0, as everywhere outside of blanks."""
        places, blocks = positions if positions.dim() == 2 else (positions, torch.zeros_like(positions))
        of_places = F.embedding(places, self._table("transformer.position_embeddings"))
        return words + of_places + F.embedding(blocks, self._table(GLM_2021_BLOCKS.removesuffix(".weight")))

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        states = self.embed(words, segments, positions)
        for layer in self.model.layers():
            states = layer(states, pack)
        result: Tensor = self.model.transformer["final_layernorm"](states)
        return result

    def vocabulary_logits(self, states: Tensor) -> Tensor:
        """The output layer is the word vectors themselves."""
        return F.linear(states, self._table("transformer.word_embeddings"))

    def _table(self, name: str) -> Tensor:
        return self.model.get_parameter(f"{name}.weight")
