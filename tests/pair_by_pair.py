"""Slow obvious DeBERTa, v1, v2 and v3: one row, one head, one pair of tokens at a time; and tiny backbones for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel

from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.rows import Row
from tiny import vocabulary, write_tokenizer

NUM_LAYERS, NUM_HEADS, HEAD_DIM, MAX_POSITIONS = 2, 4, 8, 96
BOTH = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
V3 = BOTH | {"position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "v1": ("deberta", BOTH),
    "v1-short-reach": ("deberta", BOTH | {"max_relative_positions": 6}),
    "v1-absolute-segments": ("deberta", BOTH | {"position_biased_input": True, "type_vocab_size": 2}),
    "v1-one-term": ("deberta", BOTH | {"pos_att_type": "p2c"}),
    "v1-narrow-words": ("deberta", BOTH | {"embedding_size": 24}),
    "v1-not-relative": ("deberta", {"position_biased_input": True}),
    "v2": ("deberta-v2", BOTH | {"pos_att_type": "p2c|c2p"}),
    "v2-absolute": ("deberta-v2", BOTH | {"position_biased_input": True, "type_vocab_size": 2}),
    "v2-one-term": ("deberta-v2", BOTH | {"pos_att_type": ["c2p"], "position_buckets": 4}),
    "v2-short-reach": ("deberta-v2", BOTH | {"max_relative_positions": 6, "share_att_key": True}),
    "v2-not-relative": ("deberta-v2", {"position_biased_input": True}),
    "v2-convolution": ("deberta-v2", V3 | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "v3": ("deberta-v2", V3),
}


def write_deberta(folder: Path, variant: str, **options: Any) -> Path:
    """Every bias is random too: stock models start with zeros, under which a misplaced one would not show."""
    model_type, fields = VARIANTS[variant]
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(vocabulary()),
        hidden_size=NUM_HEADS * HEAD_DIM,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        intermediate_size=48,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.3,
        **(fields | options),
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    write_tokenizer(folder, double_separator=True)
    return folder


class PairByPair:
    """One row, one head, one pair of tokens at a time, on the stock model's weights."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.config = self.model.config

    def states(self, row: Row, prefix: Prefix | None, prompt: Tensor | None = None) -> Tensor:
        words = self.model.get_input_embeddings()(torch.tensor([row.token_ids]))
        segments = torch.tensor([row.segment_ids])
        if prompt is not None:
            words = torch.cat((prompt[None], words), dim=1)
            segments = F.pad(segments, (len(prompt), 0))
        positions = torch.arange(row.first_position, row.first_position + words.shape[1])[None]
        states = embedded = self.model.embeddings(inputs_embeds=words, token_type_ids=segments, position_ids=positions)
        for index, layer in enumerate(self.model.encoder.layer):
            past = None if prefix is None else prefix[index]
            attended = layer.attention.output(self.attention(layer.attention.self, states[0], past)[None], states)
            states = layer.output(layer.intermediate(attended), attended)
            if index == 0 and getattr(self.model.encoder, "conv", None) is not None:
                states = self.model.encoder.conv(embedded, states, torch.ones(words.shape[:2]))
        result: Tensor = states[0]
        return result

    def attention(self, module: Any, states: Tensor, past: Tensor | None) -> Tensor:
        heads = [self.head(module, head, states, past) for head in range(NUM_HEADS)]
        return torch.cat(heads, dim=1)

    def head(self, module: Any, head: int, states: Tensor, past: Tensor | None) -> Tensor:
        query, key, value = self.projected(module, head, states)
        to_keys, to_queries = self.projected_distances(module, head)
        past_keys, past_values = ([], value[:0]) if past is None else (list(past[0, head]), past[1, head])
        num_terms = 1 + (to_keys is not None) + (to_queries is not None)
        if not self.config.relative_attention:
            num_terms = 1 + len(self.config.pos_att_type or ())
        mixed = []
        for i in range(len(states)):
            scores = [query[i] @ one for one in past_keys]
            for j in range(len(states)):
                score = query[i] @ key[j]
                if to_keys is not None:
                    score = score + query[i] @ to_keys[self.place(i - j)]
                if to_queries is not None:
                    score = score + key[j] @ to_queries[self.place(i - j)]
                scores.append(score)
            weights = torch.softmax(torch.stack(scores) / math.sqrt(HEAD_DIM * num_terms), dim=0)
            mixed.append(weights @ torch.cat((past_values, value)))
        return torch.stack(mixed)

    def projected(self, module: Any, head: int, states: Tensor) -> list[Tensor]:
        rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        if self.config.model_type == "deberta":
            query, key, value = module.in_proj.weight[3 * rows.start : 3 * rows.stop].split(HEAD_DIM)
            return [states @ query.T + module.q_bias[rows], states @ key.T, states @ value.T + module.v_bias[rows]]
        projections = (module.query_proj, module.key_proj, module.value_proj)
        return [F.linear(states, one.weight[rows], one.bias[rows]) for one in projections]

    def projected_distances(self, module: Any, head: int) -> list[Tensor | None]:
        """Of all distances that the model knows, far more than a row has."""
        rows, encoder = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM), self.model.encoder
        if not self.config.relative_attention:
            return [None, None]
        distances = encoder.rel_embeddings.weight
        if "layer_norm" in getattr(self.config, "norm_rel_ebd", ""):
            distances = encoder.LayerNorm(distances)
        names = {"c2p": "pos_proj", "p2c": "pos_q_proj"}
        if self.config.model_type == "deberta-v2":
            names = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
            if module.share_att_key:
                names = {"c2p": "key_proj", "p2c": "query_proj"}
        found = [getattr(module, name) if term in module.pos_att_type else None for term, name in names.items()]
        return [
            None if one is None else F.linear(distances, one.weight[rows], None if one.bias is None else one.bias[rows])
            for one in found
        ]

    def place(self, distance: int) -> int:
        buckets = getattr(self.config, "position_buckets", -1)
        reach = self.model.encoder.max_relative_positions
        if buckets > 0 and abs(distance) > buckets // 2:
            half = buckets // 2
            steps = math.log(abs(distance) / half) / math.log((reach - 1) / half) * (half - 1)
            distance = int(math.copysign(math.ceil(steps) + half, distance))
        reach = buckets if buckets > 0 else reach
        return max(0, min(2 * reach - 1, distance + reach))
