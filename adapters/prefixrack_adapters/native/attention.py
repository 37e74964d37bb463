"""Packed attention in C: prefixes and rows are read where they lie. Knows pointers and layouts, no models.

Loops over rows in Python, with an operation each, cost more than the arithmetic: rows are some thirty tokens long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import AttentionCall, PackLayout, Prefix, RowLoop
from prefixrack_adapters.native.compiler import load_library

SOURCE = Path(__file__).with_name("attention.c")
LANES = 16  # of attention.c: head_dim is a multiple
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class PackAddresses:
    """Of a pack: where its rows begin, and by layer and row where the prefix's keys and values lie, and how many.

    starts [num_rows + 1]; keys, values and prefix_lens [num_layers, num_rows]; all int64. `alive` are the tensors.
    """

    starts: NDArray[np.int64]
    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    prefix_lens: NDArray[np.int64]
    alive: Sequence[Tensor]


class NativeAttention:
    """Every row attends to everything it sees. What has a mask or gates, or is on another device, goes to `RowLoop`."""

    name = "native"
    supports_backward = False

    def __init__(self) -> None:
        """Raises NoCompiler."""
        self._attend = load_library(SOURCE).prefixrack_attend
        pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._attend.argtypes = [
            *(pointer, pointer, pointer, number, pointer, flag),
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
        if pack not in self._addresses:
            self._addresses[pack] = addresses_of(pack, query.dtype)
        at, layer = self._addresses[pack], call.layer if pack.has_prefixes else 0
        out = query.new_empty(1, num_tokens, num_heads, head_dim)
        failed = self._attend(
            *(query.data_ptr(), key.data_ptr(), value.data_ptr(), query.stride(2), out.data_ptr()),
            *(query.dtype == torch.bfloat16, len(pack.lengths), at.starts.ctypes.data),
            *(at.keys[layer].ctypes.data, at.values[layer].ctypes.data, at.prefix_lens[layer].ctypes.data),
            *(num_heads, head_dim, call.scaling),
        )
        if failed:
            raise MemoryError(f"no memory for the attention of {num_tokens} tokens: use smaller packs")
        return out


def _is_plain(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> bool:
    """Whether the kernel computes this call: no mask, no gates, no gradient, and the layout that it reads."""
    has_mask = call.is_causal or call.window is not None or any(length is not None for length in pack.context_lens)
    has_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    head_dim = query.shape[-1]
    is_laid_out = all(
        part.stride(3) == 1 and part.stride(1) == head_dim and part.stride(2) == query.stride(2)
        for part in (query, key, value)
    )
    return (
        not (has_mask or pack.has_gates or has_gradient)
        and query.device.type == "cpu"
        and query.dtype in DTYPES
        and query.shape == key.shape
        and head_dim % LANES == 0
        and is_laid_out
    )


def addresses_of(pack: PackLayout, dtype: torch.dtype) -> PackAddresses:
    starts = np.concatenate(([0], np.cumsum(pack.lengths))).astype(np.int64)
    laid_out = {id(prefix): _laid_out(prefix, dtype) for prefix in pack.prefixes if prefix is not None}
    num_layers = max((len(layers) for layers in laid_out.values()), default=1)
    table = np.zeros((3, num_layers, len(pack.lengths)), dtype=np.int64)
    columns = {key: _column(layers) for key, layers in laid_out.items()}
    for row, prefix in enumerate(pack.prefixes):
        if prefix is not None:
            table[:, :, row] = columns[id(prefix)]
    alive = [layer for layers in laid_out.values() for layer in layers if layer is not None]
    return PackAddresses(starts, table[0], table[1], table[2], alive)


def _column(layers: Sequence[Tensor | None]) -> NDArray[np.int64]:
    """[3, num_layers]: addresses of keys and of values, and the prefix's length."""
    addresses = [
        (0, 0, 0)
        if layer is None
        else (layer.data_ptr(), layer.data_ptr() + layer.stride(0) * layer.element_size(), layer.shape[-2])
        for layer in layers
    ]
    return np.array(addresses, dtype=np.int64).T


def _laid_out(prefix: Prefix, dtype: torch.dtype) -> list[Tensor | None]:
    """Layers [2, num_heads, prefix_len, head_dim], in memory with a vector's heads side by side: copied if need be."""
    layers = prefix.unbind(0) if isinstance(prefix, Tensor) else prefix
    return [
        None if layer is None else layer.detach().to(dtype).transpose(1, 2).contiguous().transpose(1, 2)
        for layer in layers
    ]
