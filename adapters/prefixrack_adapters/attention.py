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
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.gates import GatedPrefix

ATTENTION_NAME = "prefixrack_packed"


Prefix = Tensor | Sequence[Tensor | None]
"""[num_layers, 2, num_kv_heads, prefix_len, head_dim], or its layers one by one: None for a layer without a prefix."""

StatesPair = tuple[Tensor, Tensor]


class PackLayout:
    """Where the rows of a pack lie, and which prefix each of them sees. Lives for one forward pass.

    `lengths[r]` is the number of tokens of row r, a soft prompt's included. `prefixes[r]` is on the backbone's device
    (owned by the resident adapter, read in place), or None. `context_lens[r]` is how many tokens of the row see each
    other in both directions (GLM), None for what the family does with all of them.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        prefixes: Sequence[Prefix | GatedPrefix | None],
        backend: AttentionBackend,
        context_lens: Sequence[int | None] | None = None,
    ) -> None:
        self.lengths = list(lengths)
        self.prefixes = [prefix.layers if isinstance(prefix, GatedPrefix) else prefix for prefix in prefixes]
        self.gates = [prefix.gates if isinstance(prefix, GatedPrefix) else None for prefix in prefixes]
        self.has_gates = any(gates is not None for gates in self.gates)
        self.has_prefixes = any(prefix is not None for prefix in self.prefixes)
        self.inputs: Tensor | None = None  # of the layer at work, [T, hidden_size]: kept only where gates read them
        self.backend = backend
        self.context_lens = context_lens or [None] * len(self.lengths)
        self.num_calls = 0  # of the attention function, for families whose layers share one module
        self._states: dict[int, Sequence[Tensor]] = {}
        self._runs: dict[tuple[int, ...], list[RowRun]] = {}
        self._masks: dict[tuple[RowRun, bool, int | None], Tensor] = {}

    def runs(self, layer: int) -> list[RowRun]:
        """Neighbouring rows of equal length that see as many prefix vectors, for a layer."""
        prefix_lens = tuple(_layer_prefix_len(prefix, layer) for prefix in self.prefixes)
        if prefix_lens not in self._runs:
            self._runs[prefix_lens] = _row_runs(self, prefix_lens)
        return self._runs[prefix_lens]

    def prefix_states(self, layer: int, dtype: torch.dtype) -> list[StatesPair | None]:
        """Of every row: key and value [num_kv_heads, prefix_len, head_dim]. Made once for each prefix in the pack."""
        made: dict[int, StatesPair | None] = {id(None): None}
        for prefix in self.prefixes:
            if prefix is not None and id(prefix) not in made:
                states = self._layer_states(prefix, layer)
                made[id(prefix)] = None if states is None else (states[0].to(dtype), states[1].to(dtype))
        of_rows = [made[id(prefix)] for prefix in self.prefixes]
        return self._gated(of_rows, layer) if self.has_gates else of_rows

    def mask(self, run: RowRun, is_causal: bool, window: int | None, device: torch.device) -> Tensor | None:
        """[row_len, prefix_len + row_len], True where a token is seen; None where every token sees everything.

        Every token sees the whole prefix. `window` leaves own tokens that are `window` or more positions apart unseen.
        """
        if not is_causal and run.context_len is None and window is None:
            return None
        key = (run, is_causal, window)
        if key not in self._masks:
            self._masks[key] = _mask(run, is_causal, window).to(device)
        return self._masks[key]

    def _gated(self, of_rows: Sequence[StatesPair | None], layer: int) -> list[StatesPair | None]:
        assert self.inputs is not None, "a gated prefix reached a family that does not hand on its layers' inputs"
        gated: list[StatesPair | None] = []
        for pair, gates, inputs in zip(of_rows, self.gates, self.inputs.split(self.lengths), strict=True):
            gate = None if gates is None else gates[layer]
            if pair is not None and gate is not None:
                key_scale, value_scale = gate.scales(inputs)
                gated.append((pair[0] * key_scale.to(pair[0].dtype), pair[1] * value_scale.to(pair[1].dtype)))
            else:
                gated.append(pair)
        return gated

    def _layer_states(self, prefix: Prefix, layer: int) -> Sequence[Tensor] | None:
        if not isinstance(prefix, Tensor):
            of_layer = prefix[layer]
            return None if of_layer is None else of_layer.unbind(0)
        if id(prefix) not in self._states:
            self._states[id(prefix)] = prefix.flatten(0, 1).unbind(0)  # of every layer, in one call
        return self._states[id(prefix)][2 * layer : 2 * layer + 2]


class AttentionBackend(Protocol):
    """One way to compute packed prefix attention; all ways are tested equal."""

    name: str
    supports_backward: bool

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        """Attention of one layer. query [1, num_heads, T, head_dim], key and value [1, num_kv_heads, T, head_dim].

        Returns [1, T, num_heads, head_dim] in the dtype of query.
        """


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What one layer's module says of its attention. `window`: own tokens so many positions apart see no more."""

    layer: int
    scaling: float
    dropout: float = 0.0
    is_causal: bool = False
    window: int | None = None


def attend_side_by_side(call: AttentionCall, states: Tensor, head_dim: int, pack: PackLayout) -> Tensor:
    """Of states [T, 3 * hidden_size], a token's query, key and value side by side: [T, hidden_size]."""
    heads = states.view(len(states), 3, -1, head_dim)
    query, key, value = (part.transpose(0, 1)[None] for part in heads.unbind(1))
    return pack.backend.attend(call, query, key, value, pack).flatten(2)[0]


class DistanceTerms(NamedTuple):
    """What disentangled attention (DeBERTa) adds to a row's scores, by the distance from query to key.

    `to_all` are each query's scores of the distances, `from_all` each key's, [num_heads, T, num_distances]; None for a
    term that a model lacks. places [2 * longest_row - 1] int64: which of them distance d has, at d + longest_row - 1.
    """

    to_all: Tensor | None
    from_all: Tensor | None
    places: Tensor


@runtime_checkable
class AttendsByDistance(Protocol):
    """A backend that has a kernel for distances too."""

    def attend_by_distance(
        self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout, terms: DistanceTerms
    ) -> Tensor | None:
        """As `AttentionBackend.attend`, with the terms added among a row's own tokens. None where it cannot."""


class RowLoop:
    """One fused attention call per row: no padding, no mask, any mix of prefixes. The default.

    Neighbouring rows of equal length with prefixes of equal length share a call: a pack sorted by length needs few.
    `dtype` is what attention is computed in (None: the model's own). Training a bfloat16 backbone on a CPU sets
    float32: the fused kernel's backward pass is several times slower in bfloat16 there. On a CPU attention dropout is
    left out: the fused kernel has none.
    """

    name = "row-loop"
    supports_backward = True

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        dtype = self.dtype or query.dtype
        runs = pack.runs(call.layer)
        keys, values = with_prefixes(call.layer, key[0].to(dtype), value[0].to(dtype), pack)
        queries = query[0].to(dtype).split([run.num_tokens for run in runs], dim=1)
        outputs = []
        for run, *states in zip(runs, queries, keys, values, strict=True):
            of_run, seen_keys, seen_values = (run.batched(part) for part in states)
            output = F.scaled_dot_product_attention(
                of_run,
                seen_keys,
                seen_values,
                attn_mask=pack.mask(run, call.is_causal, call.window, query.device),
                dropout_p=0.0 if query.device.type == "cpu" else call.dropout,
                scale=call.scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )  # [num_rows, num_heads, row_len, head_dim]
            outputs.append(run.end_to_end(output.transpose(1, 2)))
        return torch.cat(outputs, dim=1).to(query.dtype)


def with_prefixes(
    layer: int, key: Tensor, value: Tensor, pack: PackLayout
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What each run sees: [num_kv_heads, num_rows * (prefix_len + row_len), head_dim], the prefix before each row.

    Copies are made with the heads of a token side by side, as they lie in memory; what is returned are views of them.
    """
    runs = pack.runs(layer)
    if not pack.has_prefixes:
        sizes = [run.num_tokens for run in runs]
        return key.split(sizes, dim=1), value.split(sizes, dim=1)
    prefixes = pack.prefix_states(layer, key.dtype)
    shared = prefixes[0] if all(prefix is prefixes[0] for prefix in prefixes) else None
    if shared is not None:
        return _behind_one(shared[0], key, runs), _behind_one(shared[1], value, runs)
    keys, values = zip(*((None, None) if prefix is None else prefix for prefix in prefixes), strict=True)
    return _behind_each(keys, key, pack.lengths, runs), _behind_each(values, value, pack.lengths, runs)


def _behind_one(prefix: Tensor, states: Tensor, runs: Sequence[RowRun]) -> Sequence[Tensor]:
    """All rows behind one prefix, as in training: its gradient is one sum over the rows, not a sum of as many parts."""
    before = prefix.transpose(0, 1).expand(sum(run.num_rows for run in runs), -1, -1, -1)
    of_runs = before.split([run.num_rows for run in runs])
    own = states.transpose(0, 1).split([run.num_tokens for run in runs])
    joined = (
        torch.cat((prefixes, tokens.unflatten(0, (run.num_rows, run.row_len))), dim=1)
        for run, prefixes, tokens in zip(runs, of_runs, own, strict=True)
    )  # [num_rows, prefix_len + row_len, heads, head_dim]
    return [rows.flatten(0, 1).transpose(0, 1) for rows in joined]


def _behind_each(
    prefixes: Sequence[Tensor | None], states: Tensor, lengths: Sequence[int], runs: Sequence[RowRun]
) -> Sequence[Tensor]:
    """Each row behind its own prefix. One copy of all together: one for each row costs more in calls than in bytes."""
    parts: list[Tensor] = []
    for prefix, row in zip(prefixes, states.transpose(0, 1).split(lengths), strict=True):
        parts += (row,) if prefix is None else (prefix.transpose(0, 1), row)
    sizes = [run.num_rows * (run.prefix_len + run.row_len) for run in runs]
    of_runs: Sequence[Tensor] = torch.cat(parts).transpose(0, 1).split(sizes, dim=1)
    return of_runs


@dataclass(frozen=True, slots=True)
class RowRun:
    """Neighbouring rows of equal length that see as many prefix vectors."""

    prefix_len: int
    row_len: int
    num_rows: int
    context_len: int | None = None

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


def _row_runs(pack: PackLayout, prefix_lens: Sequence[int]) -> list[RowRun]:
    rows = zip(prefix_lens, pack.lengths, pack.context_lens, strict=True)
    runs = [(key, len(list(members))) for key, members in groupby(rows)]
    return [RowRun(prefix_len, row_len, num_rows, context) for (prefix_len, row_len, context), num_rows in runs]


def _layer_prefix_len(prefix: Prefix | None, layer: int) -> int:
    if isinstance(prefix, Tensor):
        return prefix.shape[-2]
    of_layer = None if prefix is None else prefix[layer]
    return 0 if of_layer is None else of_layer.shape[-2]


def _mask(run: RowRun, is_causal: bool, window: int | None) -> Tensor:
    index = torch.arange(run.row_len)
    distance = index[:, None] - index[None, :]  # query - key
    seen = torch.ones(run.row_len, run.row_len, dtype=torch.bool)
    if run.context_len is not None:
        seen = (distance >= 0) | (index[None, :] < run.context_len)
    elif is_causal:
        seen = distance >= 0
    if window is not None:
        seen &= distance.abs() < window
    return torch.cat((torch.ones(run.row_len, run.prefix_len, dtype=torch.bool), seen), dim=1)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    pack: PackLayout | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; `pack` travels through the model's keyword arguments."""
    assert pack is not None, "the packed attention was called without a pack: use Backbone, not the model itself"
    assert attention_mask is None, "a mask reached the packed attention: its rows would see wrong keys"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = getattr(module, "layer_idx", None)
    if layer is None:  # one module for several layers (ALBERT): they are called in order
        layer = pack.num_calls
    pack.num_calls += 1
    is_causal = bool(getattr(module, "is_causal", False))
    call = AttentionCall(layer, scale, dropout, is_causal, sliding_window)
    return pack.backend.attend(call, query, key, value, pack), None


def note_inputs(module: nn.Module, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
    """A hook before a layer's attention module: keeps what enters it, for gates, which read it instead of queries."""
    pack = fields.get("pack")
    if pack is not None and pack.has_gates:
        states = args[0] if args else fields["hidden_states"]
        pack.inputs = states[0]


def register_packed_attention() -> None:
    """Make the packed attention known to transformers; repeating it changes nothing."""
    from transformers import AttentionInterface  # brings its modelling code, which fused families do without

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
