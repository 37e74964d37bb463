"""Where the prefixes of a pack lie in memory: tables of addresses for kernels that read them in place. Knows no models.

The layout that kernels read is that of a resident adapter: a layer's keys, then its values, each [prefix_len, kv_heads,
head_dim] without gaps. What lies otherwise, or has another dtype, is copied into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import PackLayout, Prefix


@dataclass(frozen=True, slots=True)
class PrefixTable:
    """[3, num_layers, num_rows] int64: addresses of keys, of values, and how many vectors there are (0: no prefix).

    `alive` are tensors made for the table, which must outlive its use. A pack without prefixes has one layer.
    """

    entries: NDArray[np.int64]
    alive: Sequence[Tensor]

    @classmethod
    def of(cls, pack: PackLayout, dtype: torch.dtype) -> PrefixTable:
        whole: list[_Whole] = []  # prefixes of which one address says where all layers lie: nearly all there are
        columns: dict[int, tuple[NDArray[np.int64], Sequence[Tensor]]] = {}
        others: list[tuple[int, int]] = []
        for row, prefix in enumerate(pack.prefixes):
            if prefix is None:
                continue
            described = _whole(row, prefix, dtype)
            if described is not None:
                whole.append(described)
                continue
            if id(prefix) not in columns:
                columns[id(prefix)] = _column(prefix, dtype)
            others.append((row, id(prefix)))
        num_layers = max((1, *(one.num_layers for one in whole), *(len(one.T) for one, _ in columns.values())))
        entries = np.zeros((3, num_layers, len(pack.prefixes)), dtype=np.int64)
        if whole:
            _, rows, addresses, layer_bytes, values_after, prefix_lens = np.array(whole, dtype=np.int64).T
            keys = addresses + np.arange(num_layers)[:, None] * layer_bytes
            entries[:, :, rows] = np.stack((keys, keys + values_after, np.broadcast_to(prefix_lens, keys.shape)))
        for row, key in others:
            entries[:, :, row] = columns[key][0]
        return cls(entries, [tensor for _, alive in columns.values() for tensor in alive])


class _Whole(NamedTuple):
    """A row's prefix whose layers lie evenly: where the first begins, and how far the next and its values are."""

    num_layers: int
    row: int
    address: int
    layer_bytes: int
    values_after: int
    prefix_len: int


def _whole(row: int, prefix: Prefix, dtype: torch.dtype) -> _Whole | None:
    """None for a prefix that must be looked at layer by layer, or copied."""
    if not isinstance(prefix, Tensor) or prefix.dtype != dtype:
        return None
    num_layers, _, num_heads, prefix_len, head_dim = prefix.shape
    layer, values, head, vector, element = prefix.stride()
    is_laid_out = element == 1 and head == head_dim and (vector == num_heads * head_dim or prefix_len == 1)
    size = dtype.itemsize
    return _Whole(num_layers, row, prefix.data_ptr(), layer * size, values * size, prefix_len) if is_laid_out else None


def _column(prefix: Prefix, dtype: torch.dtype) -> tuple[NDArray[np.int64], Sequence[Tensor]]:
    """[3, num_layers] of one prefix, and the tensors that were made for it."""
    layers = [None if layer is None else laid_out(layer.detach().to(dtype)) for layer in prefix]
    entries = np.zeros((3, len(layers)), dtype=np.int64)
    for index, layer in enumerate(layers):
        if layer is not None:
            entries[:, index] = layer[0].data_ptr(), layer[1].data_ptr(), layer.shape[-2]
    return entries, [layer for layer in layers if layer is not None]


def laid_out(layer: Tensor) -> Tensor:
    """A layer [2, kv_heads, prefix_len, head_dim] in the kernels' layout: copied if need be."""
    return layer.transpose(1, 2).contiguous().transpose(1, 2)
