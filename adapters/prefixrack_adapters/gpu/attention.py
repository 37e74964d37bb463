"""Packed attention on a GPU: one kernel call a layer, prefixes and rows read where they lie. Knows packs, no models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import AttentionBackend, AttentionCall, DistanceTerms, PackLayout
from prefixrack_adapters.gpu import kernels
from prefixrack_adapters.padded_attention import PaddedAttention
from prefixrack_adapters.prefix_table import PrefixTable
from prefixrack_adapters.transfer import to_device

ALIGNMENT = 16  # bytes: the kernel reads prefixes in vectors of this size
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST_DOT = 16  # of tl.dot, in each dimension


class Blocks(NamedTuple):
    """How much one program of the kernel computes."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int  # blocks of keys that are on their way at once


# The fastest of twelve on an H200, with heads of 64, for rows of natural lengths or shorter behind 0 to 128 vectors.
# Rows of hundreds of tokens are a sixth faster in blocks of 64 and 32.
BLOCKS = Blocks(16, 16, 1, 3)


@dataclass(frozen=True, slots=True)
class PackTables:
    """What the kernel must know of a pack, on the device: int64, put there in one copy.

    prefixes [num_layers, 3, num_rows]; starts [num_rows + 1]; context_lens [num_rows]; item_rows and item_firsts
    [num_items]. `alive` are tensors that the addresses point into.
    """

    prefixes: Tensor
    starts: Tensor
    context_lens: Tensor
    item_rows: Tensor
    item_firsts: Tensor
    alive: Sequence[Tensor]
    is_aligned: bool

    @classmethod
    def of(cls, pack: PackLayout, dtype: torch.dtype, device: torch.device, block: int) -> PackTables:
        table = PrefixTable.of(pack, dtype)
        entries = table.entries.transpose(1, 0, 2)
        lengths = np.array(pack.lengths, dtype=np.int64)
        contexts = np.array([-1 if one is None else one for one in pack.context_lens], dtype=np.int64)
        parts = [entries.ravel(), np.concatenate(([0], lengths.cumsum())), contexts, *items_of(lengths, block)]
        on_device = to_device(np.concatenate(parts), device).split([len(part) for part in parts])
        prefixes, starts, contexts_there, item_rows, item_firsts = on_device
        is_aligned = not (entries[:, :2] % ALIGNMENT).any()
        whole = prefixes.view(entries.shape)
        return cls(whole, starts, contexts_there, item_rows, item_firsts, table.alive, is_aligned)


def items_of(lengths: NDArray[np.int64], block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Blocks of queries: of which row each is, and which of the row's tokens is its first. Long rows come first."""
    counts = -(-lengths // block)
    rows = np.repeat(np.arange(len(lengths)), counts)
    firsts = (np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)) * block
    return rows[::-1].copy(), firsts[::-1].copy()


class TritonAttention:
    """Any mix of rows, prefixes and masks in one kernel call. Gates and gradients are left to `PaddedAttention`."""

    name = "triton"
    supports_backward = False

    def __init__(self, blocks: Blocks = BLOCKS) -> None:
        self.blocks = blocks
        self._padded: AttentionBackend = PaddedAttention()
        self._tables: WeakKeyDictionary[PackLayout, PackTables] = WeakKeyDictionary()

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        tables = self._tables_of(pack, query)
        if not is_plain(query, key, value, pack) or not tables.is_aligned:
            return self._padded.attend(call, query, key, value, pack)
        return self._launch(call, query, key, value, pack, tables, None)

    def attend_by_distance(
        self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout, terms: DistanceTerms
    ) -> Tensor | None:
        """As `attend`, with scores for distances added among a row's own tokens. None where the kernel cannot."""
        tables = self._tables_of(pack, query)
        if not is_plain(query, key, value, pack) or not tables.is_aligned:
            return None
        return self._launch(call, query, key, value, pack, tables, terms)

    def use_tables(self, pack: PackLayout, tables: PackTables) -> None:
        """Read these in place of the pack's own, for as long as it lives."""
        self._tables[pack] = tables

    def _tables_of(self, pack: PackLayout, query: Tensor) -> PackTables:
        if pack not in self._tables:
            self._tables[pack] = PackTables.of(pack, query.dtype, query.device, self.blocks.queries)
        return self._tables[pack]

    def _launch(
        self,
        call: AttentionCall,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pack: PackLayout,
        tables: PackTables,
        terms: DistanceTerms | None,
    ) -> Tensor:
        _, num_heads, num_tokens, head_dim = query.shape
        keys, values, prefix_lens = tables.prefixes[call.layer if pack.has_prefixes else 0].unbind(0)
        out = query.new_empty(1, num_tokens, num_heads, head_dim)
        to_all, from_all = (None, None) if terms is None else (terms.to_all, terms.from_all)
        some_term = to_all if to_all is not None else from_all
        kernels.attend[(num_heads, len(tables.item_rows))](
            *(query, key, value, out),
            *(keys, values, prefix_lens, tables.starts, tables.context_lens),
            *(tables.item_rows, tables.item_firsts),
            *(query if to_all is None else to_all, query if from_all is None else from_all),
            tables.starts if terms is None else terms.places,
            *(query.stride(2), key.stride(2), call.scaling, call.window or 0, num_tokens),
            *(0 if some_term is None else some_term.shape[-1], max(pack.lengths)),
            NUM_HEADS=num_heads,
            GROUP=num_heads // key.shape[1],
            HEAD_DIM=head_dim,
            PADDED_DIM=max(SMALLEST_DOT, triton.next_power_of_2(head_dim)),
            BLOCK_QUERIES=self.blocks.queries,
            BLOCK_KEYS=self.blocks.keys,
            IS_CAUSAL=call.is_causal,
            HAS_WINDOW=call.window is not None,
            HAS_CONTEXT=any(length is not None for length in pack.context_lens),
            HAS_TO_ALL=to_all is not None,
            HAS_FROM_ALL=from_all is not None,
            UNIT=unit_of(key, value),
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",  # of narrower dtypes it says nothing
            num_warps=self.blocks.num_warps,
            num_stages=self.blocks.num_stages,
        )
        return out


def unit_of(key: Tensor, value: Tensor) -> int:
    """The power of two, in values and at most `ALIGNMENT` bytes, at whose multiples all vectors of all tokens begin."""
    size = key.element_size()
    strides = [key.stride(2), value.stride(2), key.shape[1] * key.shape[3]]
    return math.gcd(ALIGNMENT // size, key.data_ptr() // size, value.data_ptr() // size, *strides)


def is_plain(query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> bool:
    """Whether the kernel computes this call: no gates, no gradient, and the layout that it reads."""
    has_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    head_dim = query.shape[-1]
    is_laid_out = all(part.stride(3) == 1 and part.stride(1) == head_dim for part in (query, key, value))
    is_alike = value.stride(2) == key.stride(2)
    return not pack.has_gates and not has_gradient and query.dtype in DTYPES and is_laid_out and is_alike
