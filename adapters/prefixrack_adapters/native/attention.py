"""Packed attention in C: prefixes and rows are read where they lie. Knows pointers and layouts, no models.

Loops over rows in Python, with an operation each, cost more than the arithmetic: rows are some thirty tokens long.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import AttentionCall, PackLayout, RowLoop
from prefixrack_adapters.native.compiler import load_library
from prefixrack_adapters.prefix_table import PrefixTable

SOURCE = Path(__file__).with_name("attention.c")
LANES = 16  # of attention.c: head_dim is a multiple
DTYPES = (torch.float32, torch.bfloat16)
# Slowest first, as in attend.h: turned into float32 before, two by two (AVX512-BF16), on matrix tiles (AMX).
PRODUCTS = ("plain", "pairs", "tiles")


class PackAddresses(NamedTuple):
    """Of a pack: where its rows begin, int64 [num_rows + 1], and where their prefixes lie."""

    starts: NDArray[np.int64]
    prefixes: PrefixTable

    @classmethod
    def of(cls, pack: PackLayout, dtype: torch.dtype) -> PackAddresses:
        starts = np.concatenate(([0], np.cumsum(pack.lengths))).astype(np.int64)
        return cls(starts, PrefixTable.of(pack, dtype))


class NativeAttention:
    """Every row attends to everything it sees. What has a mask or gates, or is on another device, goes to `RowLoop`."""

    name = "native"
    supports_backward = False

    def __init__(self, products: str = "tiles") -> None:
        """`products`, of `PRODUCTS`: how those of bfloat16 are taken, or in the next slower way. Raises NoCompiler."""
        library = load_library(SOURCE)
        self._products = min(PRODUCTS.index(products), library.prefixrack_fastest_products())
        self._attend = library.prefixrack_attend
        pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._attend.argtypes = [
            *(pointer, pointer, pointer, number, pointer, flag, flag),
            *(number, pointer, pointer, pointer, pointer),
            *(number, number, ctypes.c_float),
        ]
        self._attend.restype = flag
        self._row_loop = RowLoop()
        self._addresses: WeakKeyDictionary[PackLayout, PackAddresses] = WeakKeyDictionary()

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        if not _is_plain(call, query, key, value, pack):
            return self._row_loop.attend(call, query, key, value, pack)
        _, num_heads, num_tokens, head_dim = query.shape
        starts, prefixes = self.addresses(pack, query.dtype)
        keys, values, prefix_lens = prefixes.entries[:, call.layer if pack.has_prefixes else 0]
        out = query.new_empty(1, num_tokens, num_heads, head_dim)
        failed = self._attend(
            *(query.data_ptr(), key.data_ptr(), value.data_ptr(), query.stride(2), out.data_ptr()),
            *(query.dtype == torch.bfloat16, self._products, len(pack.lengths), starts.ctypes.data),
            *(keys.ctypes.data, values.ctypes.data, prefix_lens.ctypes.data),
            *(num_heads, head_dim, call.scaling),
        )
        if failed:
            raise MemoryError(f"no memory for the attention of {num_tokens} tokens: use smaller packs")
        return out

    def addresses(self, pack: PackLayout, dtype: torch.dtype) -> PackAddresses:
        """Made once for a pack."""
        if pack not in self._addresses:
            self._addresses[pack] = PackAddresses.of(pack, dtype)
        return self._addresses[pack]


def sees_everything(pack: PackLayout) -> bool:
    """Whether nothing in the pack keeps a row's tokens from seeing all of their prefix, as it is, and of each other."""
    return not (pack.has_gates or any(length is not None for length in pack.context_lens))


def _is_plain(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> bool:
    """Whether the kernel computes this call: no mask, no gates, no gradient, and the layout that it reads."""
    has_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    head_dim = query.shape[-1]
    is_laid_out = all(
        part.stride(3) == 1 and part.stride(1) == head_dim and part.stride(2) == query.stride(2)
        for part in (query, key, value)
    )
    return (
        sees_everything(pack)
        and not (call.is_causal or call.window is not None or has_gradient)
        and query.device.type == "cpu"
        and query.dtype in DTYPES
        and query.shape == key.shape
        and head_dim % LANES == 0
        and is_laid_out
    )
