"""Small linear heads of one row each in C: their weights are read where they lie. Knows dense layers and tensors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.heads import Dense
from prefixrack_adapters.native.compiler import compiled, load_library

SOURCE = Path(__file__).with_name("heads.c")
DTYPES = (torch.float32, torch.bfloat16)
LOG = logging.getLogger(__name__)


class _Heads(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "places", "weights", "biases", "out")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_outputs", "width")),
        ("is_bf16", ctypes.c_int),
    )


class NativeHeads:
    """Linear layers of one shape, each for one vector of its own, on the CPU, without gradients."""

    def __init__(self) -> None:
        """Raises NoCompiler."""
        self._kernel = load_library(SOURCE).prefixrack_read_heads
        self._kernel.argtypes = [ctypes.POINTER(_Heads)]
        self._kernel.restype = None

    @staticmethod
    def takes(layer: Dense, hidden: Tensor) -> bool:
        """Whether it computes layers like this one over such states. Activation and normalisation are not its own."""
        is_plain = layer.weight.is_contiguous() and layer.weight.dtype == torch.float32
        return hidden.is_cpu and hidden.dtype in DTYPES and is_plain and layer.weight.shape[1] == hidden.shape[1]

    def __call__(self, hidden: Tensor, places: NDArray[np.int64], layers: Sequence[Dense]) -> Tensor:
        """hidden [T, width] → float32 [num_layers, num_outputs]: layer n of line `places[n]`, which is in range.

        All layers have the shape and dtype of the first, none has gaps, and all have a bias or none has.
        """
        hidden = hidden.contiguous()
        num_outputs, width = layers[0].weight.shape
        out = torch.empty(len(layers), num_outputs)
        weights = _addresses(layer.weight for layer in layers)
        biases = _addresses(layer.bias for layer in layers if layer.bias is not None)
        self._kernel(
            _Heads(
                *(hidden.data_ptr(), places.ctypes.data, weights.ctypes.data),
                *(biases.ctypes.data if len(biases) else None, out.data_ptr()),
                *(len(layers), num_outputs, width, hidden.dtype == torch.bfloat16),
            )
        )
        return out


def _addresses(tensors: Iterable[Tensor]) -> NDArray[np.int64]:
    return np.fromiter((tensor.data_ptr() for tensor in tensors), dtype=np.int64)


@cache
def compiled_heads() -> NativeHeads | None:
    """The kernel, or None, with a line in the log, where it cannot be had."""
    return compiled(NativeHeads, LOG, "small heads are not compiled but stacked, which is slower")
