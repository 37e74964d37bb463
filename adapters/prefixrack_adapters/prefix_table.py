"""Where the prefixes of a pack lie in memory: tables of addresses for kernels that read them in place. Knows no models.

The layout that kernels read is that of a resident adapter: a layer's keys, then its values, each [prefix_len, kv_heads,
head_dim] without gaps. What lies otherwise, or has another dtype, is copied into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        columns = {id(None): _Column(np.zeros((3, 1), dtype=np.int64), [])}
        for prefix in pack.prefixes:
            if prefix is not None and id(prefix) not in columns:
                columns[id(prefix)] = _column(prefix, dtype)
        num_layers = max(column.entries.shape[1] for column in columns.values())
        entries = np.zeros((3, num_layers, len(pack.prefixes)), dtype=np.int64)
        for row, prefix in enumerate(pack.prefixes):
            entries[:, :, row] = columns[id(prefix)].entries
        return cls(entries, [tensor for column in columns.values() for tensor in column.alive])


@dataclass(frozen=True, slots=True)
class _Column:
    """[3, num_layers] of one prefix."""

    entries: NDArray[np.int64]
    alive: Sequence[Tensor]


def _column(prefix: Prefix, dtype: torch.dtype) -> _Column:
    if isinstance(prefix, Tensor) and prefix.dtype == dtype and is_laid_out(prefix[0]):
        # All layers at once: a resident adapter of 24 layers costs as little as one of 6.
        first = prefix.data_ptr() + np.arange(len(prefix), dtype=np.int64) * (prefix.stride(0) * prefix.element_size())
        values = first + prefix.stride(1) * prefix.element_size()
        return _Column(np.stack((first, values, np.full_like(first, prefix.shape[-2]))), [prefix])
    layers = [None if layer is None else laid_out(layer.detach().to(dtype)) for layer in prefix]
    entries = np.zeros((3, len(layers)), dtype=np.int64)
    for index, layer in enumerate(layers):
        if layer is not None:
            entries[:, index] = layer[0].data_ptr(), layer[1].data_ptr(), layer.shape[-2]
    return _Column(entries, [layer for layer in layers if layer is not None])


def is_laid_out(layer: Tensor) -> bool:
    """Whether a layer [2, kv_heads, prefix_len, head_dim] lies as kernels read it."""
    return layer.transpose(1, 2)[0].is_contiguous()


def laid_out(layer: Tensor) -> Tensor:
    """The same layer in the kernels' layout: copied if need be."""
    return layer.transpose(1, 2).contiguous().transpose(1, 2)
