"""The weights of BERT's form without transformers, whose modelling code takes longer to import than torch itself.

Modules are named as the stock model's, so that the files' tensors find their places. They hold weights and nothing
computes in them but the embedding layer: the layers are fused before the first pass. Knows no packs and no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import Tensor, nn

from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.families.assigning import Embedding, Linear, assign_weights
from prefixrack_adapters.families.casting import cast_parameters
from prefixrack_adapters.spec import read_config

# Without these in config.json only transformers knows the model's shape.
NEEDED: Final = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


class Embeddings(nn.Module):
    """Positions, segments and normalisation, added in the order of the stock model."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.embedding_size
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, inputs_embeds: Tensor, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        summed = inputs_embeds + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        normalised: Tensor = self.LayerNorm(summed)
        return normalised


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_head_size = width // num_heads
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))


class Output(nn.Module):
    """The end of each half of a layer."""

    def __init__(self, inner: int, width: int, epsilon: float) -> None:
        super().__init__()
        self.dense = Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, epsilon)


class Layer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner, epsilon = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        attention = {"self": SelfAttention(width, config.num_attention_heads), "output": Output(width, width, epsilon)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": Linear(width, inner)})
        self.output = Output(inner, width, epsilon)


class BertWeights(nn.Module):
    """The base model under its own tensor names, no pooler."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        if config.embedding_size != config.hidden_size:
            self.embeddings_project = Linear(config.embedding_size, config.hidden_size)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.encoder = nn.ModuleDict({"layer": layers})

    def get_input_embeddings(self) -> Embedding:
        return self.embeddings.word_embeddings


def load_bert_weights(folder: Path, dtype: torch.dtype) -> BertWeights | None:
    """On the CPU, memory-mapped. None where config.json does not say the whole shape.

    Raises UnsupportedBackbone where a tensor is missing or has another shape.
    """
    config = read_config(folder)
    shape = _shape(config)
    if shape is None:
        return None
    with torch.device("meta"):
        model = BertWeights(shape)
    assign_weights(model, folder, ARCHITECTURES[config["model_type"]], "copy the folder again")
    cast_parameters(model, dtype)
    return model


def _shape(config: Mapping[str, Any]) -> SimpleNamespace | None:
    """ELECTRA alone has word vectors of a width of their own."""
    architecture = ARCHITECTURES[config["model_type"]]
    needed = (*NEEDED, "embedding_size") if config["model_type"] == "electra" else NEEDED
    if any(config.get(name) is None for name in needed):
        return None
    fields = {name: config.get(name, default) for name, default in architecture.output_fields.items()}
    if config["model_type"] != "electra":
        fields["embedding_size"] = config["hidden_size"]
    return SimpleNamespace(**fields)
