"""Packed prefix attention: the one part of the transformer that sees row borders. Knows no tasks, manifests or HTTP.

A pack is `[1, T]`: the tokens of all rows end to end. Everything else in the model works token by token; here the
queries of row r see (prefix of r's adapter) + (tokens of r), nothing else. The function reaches the model through
transformers' `AttentionInterface`. No mask function is registered under the same name on purpose: transformers then
builds no mask at all.

Prefix keys and values are raw, as P-Tuning v2 trains them (arXiv 2110.07602, section 3): they bypass the key and
value projections and every query of the row sees all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION_NAME = "prefixrack_packed"


Prefix = Tensor | Sequence[Tensor]
"""[num_layers, 2, num_kv_heads, prefix_len, head_dim]; training passes it as a sequence of its layers."""


@dataclass(frozen=True, slots=True)
class PackLayout:
    """Where the rows of a pack lie, and which prefix each of them sees. Lives for one forward pass.

    `lengths[r]` is the number of tokens of row r. `prefixes[r]` is on the backbone's device (owned by the resident
    adapter, read in place), or None.
    """

    lengths: Sequence[int]
    prefixes: Sequence[Prefix | None]
    backend: AttentionBackend


class AttentionBackend(Protocol):
    """One way to compute packed prefix attention; all ways are tested equal."""

    name: str
    supports_backward: bool

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout, scaling: float, dropout: float
    ) -> Tensor:
        """Attention of one layer. query [1, num_heads, T, head_dim], key and value [1, num_kv_heads, T, head_dim].

        Returns [1, T, num_heads, head_dim] in the dtype of query.
        """


class RowLoop:
    """One fused attention call per row: no padding, no mask, any mix of prefixes. The default on CPU.

    Neighbouring rows of equal length with the same prefix share one call, so a training batch sorted by length needs
    few. `dtype` is what attention is computed in (None: the model's own). Training a bfloat16 backbone on a CPU sets
    float32: the fused kernel's backward pass is several times slower in bfloat16 there. On a CPU attention dropout is
    left out: the fused kernel has none.
    """

    name = "row-loop"
    supports_backward = True

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout, scaling: float, dropout: float
    ) -> Tensor:
        dtype = self.dtype or query.dtype
        runs = row_runs(pack)
        lengths = [run.num_rows * run.row_len for run in runs]
        parts = [states[0].to(dtype).split(lengths, dim=1) for states in (query, key, value)]
        prefix_of = layer_prefixes(layer, pack.prefixes, dtype)
        outputs = []
        for run, *states in zip(runs, *parts, strict=True):
            queries, keys, values = (run.batched(part) for part in states)
            if run.prefix is not None:
                prefix_key, prefix_value = prefix_of[id(run.prefix)]
                keys = torch.cat((prefix_key.expand(run.num_rows, -1, -1, -1), keys), dim=2)
                values = torch.cat((prefix_value.expand(run.num_rows, -1, -1, -1), values), dim=2)
            output = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                dropout_p=0.0 if query.device.type == "cpu" else dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )  # [num_rows, num_heads, row_len, head_dim]
            outputs.append(output.transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs).unsqueeze(0).to(query.dtype)


@dataclass(frozen=True, slots=True)
class RowRun:
    """Neighbouring rows of equal length that see the same prefix."""

    prefix: Prefix | None
    row_len: int
    num_rows: int

    def batched(self, states: Tensor) -> Tensor:
        """A view: [heads, num_rows * row_len, head_dim] → [num_rows, heads, row_len, head_dim]."""
        batch: Tensor = states.unflatten(1, (self.num_rows, self.row_len)).transpose(0, 1)
        return batch


def row_runs(pack: PackLayout) -> list[RowRun]:
    keyed = groupby(zip(pack.lengths, pack.prefixes, strict=True), key=lambda row: (row[0], id(row[1])))
    rows = [list(members) for _, members in keyed]
    return [RowRun(prefix=members[0][1], row_len=members[0][0], num_rows=len(members)) for members in rows]


def layer_prefixes(
    layer: int, prefixes: Sequence[Prefix | None], dtype: torch.dtype
) -> dict[int, tuple[Tensor, Tensor]]:
    """Key and value [1, num_kv_heads, prefix_len, head_dim] of every distinct prefix in the pack, by identity."""
    distinct = {id(prefix): prefix for prefix in prefixes if prefix is not None}
    pairs = {}
    for identity, prefix in distinct.items():
        key, value = prefix[layer].to(dtype).split(1, dim=0)
        pairs[identity] = (key, value)
    return pairs


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack: PackLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; `pack` travels through the model's keyword arguments."""
    assert pack is not None, "the packed attention was called without a pack: use Backbone, not the model itself"
    assert attention_mask is None, "a mask reached the packed attention: its rows would see wrong keys"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = module.layer_idx
    assert isinstance(layer, int), "the attention module has no layer_idx: set it when the backbone is loaded"
    return pack.backend.attend(layer, query, key, value, pack, scale, dropout), None


def register_packed_attention() -> None:
    """Make the packed attention known to transformers; repeating it changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention)
