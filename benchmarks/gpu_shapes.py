"""Backbones of published shapes with random weights, made on the device, and packs for them. Measures nothing.

Needs only torch, transformers and the library's modules below the manifest: a machine with a GPU has little else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from prefixrack_adapters.attention import ATTENTION_NAME, register_packed_attention
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.dense import Dense
from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.heads import Head
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec

LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 514}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
SHAPES: dict[str, dict[str, Any]] = {
    "bert-large": LARGE | {"model_type": "bert", "num_hidden_layers": 24, "vocab_size": 30522},
    "roberta-large": LARGE | {"model_type": "roberta", "num_hidden_layers": 24, "vocab_size": 50265, "pad_token_id": 1},
    "deberta-xlarge": LARGE
    | DEBERTA
    | {"model_type": "deberta", "num_hidden_layers": 48, "vocab_size": 50265, "type_vocab_size": 0},
}
FIRST_POSITION = 130  # behind the longest prefix
NUM_LABELS = 3
LENGTHS_FILE = Path(__file__).with_name("lengths.json")  # of data sets' examples, as a BERT tokenizer counts them


@dataclass(frozen=True, slots=True)
class RandomAdapter:
    """What a pack needs of an adapter: its prefix as attention takes it, and a head."""

    layers: Tensor | None
    head: Head
    prompt: None = None


def random_backbone(shape: str, device: str, dtype: torch.dtype) -> Backbone:
    """The packed backbone of a shape, ready for inference."""
    options = dict(SHAPES[shape])
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    model = random_model(config, device, dtype, "eager" if config.model_type == "deberta" else ATTENTION_NAME)
    heads = config.num_attention_heads
    spec = BackboneSpec(
        model_id=shape,
        architecture=config.model_type,
        fingerprint="random",
        num_layers=config.num_hidden_layers,
        num_kv_heads=heads,
        head_dim=config.hidden_size // heads,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_segments=config.type_vocab_size,
        max_positions=config.max_position_embeddings,
        base_position=0,
    )
    return Backbone(FAMILIES[config.model_type](model), spec, cast("Any", None))


def random_model(config: Any, device: str, dtype: torch.dtype, attention: str) -> nn.Module:
    register_packed_attention()
    torch.manual_seed(0)
    with torch.device(device):
        model: nn.Module = AutoModel.from_config(config, attn_implementation=attention)
    return model.to(dtype).requires_grad_(False).eval()


def random_adapters(
    spec: BackboneSpec, num: int, prefix_len: int, device: str, dtype: torch.dtype
) -> list[RandomAdapter]:
    """Each with a prefix and a head of its own, all prefixes in one block of memory."""
    generator = torch.Generator(device).manual_seed(prefix_len)
    shape = (num, spec.num_layers, 2, prefix_len, spec.num_kv_heads, spec.head_dim)
    pool = torch.empty(shape, dtype=dtype, device=device).normal_(generator=generator)
    weights = torch.empty(num, NUM_LABELS, spec.hidden_size, device=device).normal_(generator=generator)
    return [
        RandomAdapter(prefix.transpose(2, 3), Head("first_token", [Dense(weight, None, None)]))
        for prefix, weight in zip(pool.unbind(0), weights.unbind(0), strict=True)
    ]


def pool_bytes(spec: BackboneSpec, num: int, prefix_len: int, dtype: torch.dtype) -> int:
    return num * spec.num_layers * 2 * prefix_len * spec.num_kv_heads * spec.head_dim * dtype.itemsize


def lengths_of(histogram: str, num_tokens: int, random: np.random.Generator) -> list[int]:
    """Rows of a data set's lengths, or of natural ones (lognormal(3.2, 0.6), 6 to 128), about `num_tokens` in all."""
    if histogram == "natural":
        drawn = np.clip(random.lognormal(3.2, 0.6, num_tokens).round(), 6, 128).astype(int)
    else:
        values, counts = np.array(json.loads(LENGTHS_FILE.read_text())[histogram]).T
        drawn = random.choice(values, num_tokens, p=counts / counts.sum())
    last = int(np.searchsorted(drawn.cumsum(), num_tokens))
    return [int(length) for length in drawn[: max(1, last)]]


def pack_of(
    spec: BackboneSpec, lengths: Sequence[int], adapters: Sequence[RandomAdapter | None], random: np.random.Generator
) -> list[PackRow]:
    """A row of random tokens for each length and adapter."""
    return [
        PackRow(_row(spec, length, random), cast("Any", adapter))
        for length, adapter in zip(lengths, adapters, strict=True)
    ]


def _row(spec: BackboneSpec, length: int, random: np.random.Generator) -> Row:
    return Row(tuple(random.integers(5, spec.vocab_size, length).tolist()), (0,) * length, FIRST_POSITION)
