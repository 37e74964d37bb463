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


class PackLayout:
    """Where the rows of a pack lie, and which prefix each of them sees. Lives for one forward pass.

    `lengths[r]` is the number of tokens of row r. `prefixes[r]` is on the backbone's device (owned by the resident
    adapter, read in place), or None.
    """

    def __init__(self, lengths: Sequence[int], prefixes: Sequence[Prefix | None], backend: AttentionBackend) -> None:
        self.lengths = list(lengths)
        self.prefixes = prefixes
        self.backend = backend
        self.runs = row_runs(lengths, prefixes)
        self._states: dict[int, Sequence[Tensor]] = {}

    def prefix_states(self, layer: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor] | None]:
        """Of every row: key and value [num_kv_heads, prefix_len, head_dim]. Made once for each prefix in the pack."""
        made: dict[int, tuple[Tensor, Tensor]] = {}
        for prefix in self.prefixes:
            if prefix is not None and id(prefix) not in made:
                key, value = self._layer_states(prefix, layer)
                made[id(prefix)] = (key.to(dtype), value.to(dtype))
        return [None if prefix is None else made[id(prefix)] for prefix in self.prefixes]

    def _layer_states(self, prefix: Prefix, layer: int) -> Sequence[Tensor]:
        if not isinstance(prefix, Tensor):
            return prefix[layer].unbind(0)
        if id(prefix) not in self._states:
            self._states[id(prefix)] = prefix.flatten(0, 1).unbind(0)  # of every layer, in one call
        return self._states[id(prefix)][2 * layer : 2 * layer + 2]


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
        keys, values = with_prefixes(layer, key[0].to(dtype), value[0].to(dtype), pack)
        queries = query[0].to(dtype).split([run.num_tokens for run in pack.runs], dim=1)
        outputs = []
        for run, *states in zip(pack.runs, queries, keys, values, strict=True):
            of_run, seen_keys, seen_values = (run.batched(part) for part in states)
            output = F.scaled_dot_product_attention(
                of_run,
                seen_keys,
                seen_values,
                dropout_p=0.0 if query.device.type == "cpu" else dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )  # [num_rows, num_heads, row_len, head_dim]
            outputs.append(run.end_to_end(output.transpose(1, 2)))
        return torch.cat(outputs, dim=1).to(query.dtype)


def with_prefixes(
    layer: int, key: Tensor, value: Tensor, pack: PackLayout
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What each run sees: [num_kv_heads, num_rows * (prefix_len + row_len), head_dim], the prefix before each row.

    One copy of all rows together: a copy for each row costs more in calls than in bytes.
    """
    sizes = [run.num_rows * (run.prefix_len + run.row_len) for run in pack.runs]
    if all(prefix is None for prefix in pack.prefixes):
        return key.split(sizes, dim=1), value.split(sizes, dim=1)
    prefix_states = pack.prefix_states(layer, key.dtype)
    joined = []
    for index, states in enumerate((key, value)):
        parts: list[Tensor] = []
        for prefix, row in zip(prefix_states, states.split(pack.lengths, dim=1), strict=True):
            parts += (row,) if prefix is None else (prefix[index], row)
        joined.append(torch.cat(parts, dim=1).split(sizes, dim=1))
    return joined[0], joined[1]


@dataclass(frozen=True, slots=True)
class RowRun:
    """Neighbouring rows of equal length that see the same prefix."""

    prefix_len: int
    row_len: int
    num_rows: int

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.row_len

    def batched(self, states: Tensor) -> Tensor:
        """A view: [heads, num_rows * length, head_dim] → [num_rows, heads, length, head_dim]."""
        if self.num_rows == 1:
            return states[None]
        batch: Tensor = states.unflatten(1, (self.num_rows, -1)).transpose(0, 1)
        return batch

    def end_to_end(self, batch: Tensor) -> Tensor:
        """[num_rows, row_len, heads, head_dim] → [1, num_rows * row_len, heads, head_dim]."""
        return batch if self.num_rows == 1 else batch.flatten(0, 1)[None]


def row_runs(lengths: Sequence[int], prefixes: Sequence[Prefix | None]) -> list[RowRun]:
    keyed = groupby(zip(lengths, prefixes, strict=True), key=lambda row: (row[0], id(row[1])))
    rows = [list(members) for _, members in keyed]
    return [RowRun(prefix_len(members[0][1]), members[0][0], len(members)) for members in rows]


def prefix_len(prefix: Prefix | None) -> int:
    return 0 if prefix is None else prefix[0].shape[-2]


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
