"""The slow obvious forward pass that everything must agree with: one row, one adapter, no packing, eager attention.

It loads its own stock model and imports nothing of the library but the reading of bundle files. The prefix goes in the
way the original P-Tuning v2 code does it: as past keys and values in front of every layer's own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel

from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, read_tensors


@dataclass(frozen=True)
class ReferenceAdapter:
    """manifest as plain JSON; tensors by name, float32, in the bundle's layout."""

    manifest: dict[str, Any]
    tensors: dict[str, Tensor]


def read_reference_adapter(folder: Path) -> ReferenceAdapter:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    stored = read_tensors(folder / TENSORS_FILE)
    return ReferenceAdapter(manifest, {name: torch.tensor(one.values) for name, one in stored.items()})


class ReferenceModel:
    """A stock model, with each layer's eager self-attention computed here, in the open, all of it in `dtype`.

    float64 leaves so little to rounding that it stands for what is exact.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        config = AutoConfig.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager")
        self.model = model.eval()
        assert self.model.config._attn_implementation == "eager"
        self.layers: list[Any] = list(self.model.encoder.layer)

    @torch.no_grad()
    def hidden_states(
        self, token_ids: list[int], segment_ids: list[int], first_position: int, prefix: Tensor | None
    ) -> Tensor:
        """[S, hidden_size]. `prefix` is [num_layers, 2, prefix_len, num_heads, head_dim] or None."""
        positions = torch.arange(first_position, first_position + len(token_ids))
        prefix = None if prefix is None else prefix.to(self.model.dtype)
        states = self.model.embeddings(
            input_ids=torch.tensor([token_ids]),
            token_type_ids=torch.tensor([segment_ids]),
            position_ids=positions[None],
        )
        if hasattr(self.model, "embeddings_project"):  # ELECTRA with narrow embeddings
            states = self.model.embeddings_project(states)
        for index, layer in enumerate(self.layers):
            attended = _attention(layer.attention.self, states, None if prefix is None else prefix[index])
            attended = layer.attention.output(attended, states)
            states = layer.output(layer.intermediate(attended), attended)
        result: Tensor = states[0]
        return result

    def stock_hidden_states(self, token_ids: list[int], segment_ids: list[int], first_position: int) -> Tensor:
        """The model's own forward, to check the loop above against it where there is no prefix."""
        positions = torch.arange(first_position, first_position + len(token_ids))
        with torch.no_grad():
            output = self.model(
                input_ids=torch.tensor([token_ids]),
                token_type_ids=torch.tensor([segment_ids]),
                position_ids=positions[None],
            )
        result: Tensor = output.last_hidden_state[0]
        return result

    def logits(
        self, adapter: ReferenceAdapter, token_ids: list[int], segment_ids: list[int], first_position: int
    ) -> NDArray[np.float32]:
        """[num_outputs] for heads that read one vector, [S, num_outputs] for those of every token."""
        tensors = {name: tensor.to(self.model.dtype) for name, tensor in adapter.tensors.items()}
        hidden = self.hidden_states(token_ids, segment_ids, first_position, tensors.get("prefix"))
        head = adapter.manifest["head"]
        states = _gathered(hidden, head["gather"])
        for index, layer in enumerate(head["layers"]):
            states = F.linear(states, tensors[f"head.{index}.weight"], tensors.get(f"head.{index}.bias"))
            if layer["activation"] is not None:
                states = {"tanh": torch.tanh, "relu": torch.relu, "gelu": F.gelu}[layer["activation"]](states)
        return states.float().numpy()


def _gathered(hidden: Tensor, gather: str) -> Tensor:
    match gather:
        case "first_token":
            return hidden[0]
        case "last_token":
            return hidden[-1]
        case "mean_tokens":
            return hidden.mean(dim=0)
    assert gather == "every_token", f"the reference does not know {gather}"
    return hidden


def _attention(module: Any, states: Tensor, prefix: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √d) v over (prefix + own tokens) of one layer. states [1, S, hidden_size]."""
    heads, width = module.num_attention_heads, module.attention_head_size

    def split(projected: Tensor) -> Tensor:
        return projected.view(1, -1, heads, width).transpose(1, 2)

    query, key, value = split(module.query(states)), split(module.key(states)), split(module.value(states))
    if prefix is not None:
        past = prefix.transpose(1, 2)[:, None]  # [2, 1, num_heads, prefix_len, head_dim]
        key, value = torch.cat((past[0], key), dim=2), torch.cat((past[1], value), dim=2)
    weights = torch.softmax(query @ key.transpose(-1, -2) / width**0.5, dim=-1)
    return (weights @ value).transpose(1, 2).reshape(1, -1, heads * width)
