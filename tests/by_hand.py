"""Slow obvious attention for stock models: one row, one head, one token at a time, no packs, batches or masks.

Everything around attention is stock transformers. The prefix stands in front of each layer's own keys and values, raw,
and every token sees all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel

NAME = "tests_by_hand"
LayerPrefixes = Tensor | Sequence[Tensor | None]


class ByHand:
    """A stock model whose attention is the function below."""

    def __init__(self, folder: Path) -> None:
        AttentionInterface.register(NAME, attention)
        config = AutoConfig.from_pretrained(folder)
        self.model: Any = AutoModel.from_pretrained(folder, config=config, attn_implementation=NAME).eval()
        self.model.requires_grad_(False)

    def words(self, token_ids: Sequence[int]) -> Tensor:
        """Word vectors [S, e]."""
        vectors: Tensor = self.model.get_input_embeddings()(torch.tensor(token_ids))
        return vectors

    def states(self, words: Tensor, first_position: int, prefix: LayerPrefixes | None = None) -> Tensor:
        """[S, hidden_size] of word vectors [S, e]. `prefix[l]` is [2, num_heads, P, head_dim] or None."""
        positions = torch.arange(first_position, first_position + len(words))
        output = self.model(inputs_embeds=words[None], position_ids=positions[None], prefix=prefix, calls=[])
        states: Tensor = output.last_hidden_state[0]
        return states


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    prefix: LayerPrefixes | None,
    calls: list[int],
    **_: Any,
) -> tuple[Tensor, None]:
    """Layers are counted as they are called, in `calls`."""
    assert attention_mask is None
    layer, of_layer = len(calls), None if prefix is None else prefix[len(calls)]
    calls.append(layer)
    heads = []
    for head in range(query.shape[1]):
        own = head // (query.shape[1] // key.shape[1])  # neighbouring query heads share one key head
        keys, values = key[0, own], value[0, own]
        past = keys[:0], values[:0]
        if of_layer is not None:
            past = of_layer[0, own], of_layer[1, own]
        tokens = []
        for index, one in enumerate(query[0, head]):
            seen = [other for other in range(len(keys)) if sees(module.config, layer, index, other)]
            weights = torch.softmax(torch.cat((past[0], keys[seen])) @ one * scaling, dim=0)
            tokens.append(weights @ torch.cat((past[1], values[seen])))
        heads.append(torch.stack(tokens))
    return torch.stack(heads, dim=1)[None], None  # [1, S, num_heads, head_dim]


def sees(config: Any, layer: int, index: int, other: int) -> bool:
    """Whether a token sees another of its row, by the config's own words."""
    is_decoder = config.model_type in ("glm", "glm4", "gpt2", "llama", "qwen2", "qwen3")
    if is_decoder and other > index:
        return False
    if (getattr(config, "layer_types", None) or {layer: ""})[layer] != "sliding_attention":
        return True
    if config.model_type == "modernbert":
        return bool(abs(index - other) <= config.local_attention // 2)
    return bool(index - other < config.sliding_window)
