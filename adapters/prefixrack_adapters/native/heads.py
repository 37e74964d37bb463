"""Small linear heads in C: their weights are read where they lie. Knows layouts and tensors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.head_layout import LayerLayout
from prefixrack_adapters.native.compiler import compiled, load_library

SOURCE = Path(__file__).with_name("heads.c")
DTYPES = (torch.float32, torch.bfloat16)
LOG = logging.getLogger(__name__)


class _Heads(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "places", "weights", "biases", "out")),
        *((name, ctypes.c_int64) for name in ("num_places", "num_outputs", "width")),
        ("is_bf16", ctypes.c_int),
    )


class NativeHeads:
    """Linear layers of one shape, each for a few vectors, on the CPU, without gradients."""

    def __init__(self) -> None:
        """Raises NoCompiler."""
        self._kernel = load_library(SOURCE).prefixrack_read_heads
        self._kernel.argtypes = [ctypes.POINTER(_Heads)]
        self._kernel.restype = None

    @staticmethod
    def takes(hidden: Tensor) -> bool:
        return hidden.is_cpu and hidden.dtype in DTYPES

    def __call__(
        self, hidden: Tensor, places: NDArray[np.int64], layers: Sequence[LayerLayout], counts: Sequence[int]
    ) -> Tensor:
        """hidden [T, width] → float32 [num_places, num_outputs]: each layer of the next `counts` of the lines `places`.

        The lines are in range. All layers have the sizes of the first, and all have a bias or none has. Their
        activation is not its own.
        """
        hidden = hidden.contiguous()
        first = layers[0]
        out = torch.empty(len(places), first.num_outputs)
        addresses = np.array([layer[:2] for layer in layers], dtype=np.int64)
        weights, biases = np.ascontiguousarray(addresses.repeat(counts, axis=0).T)
        self._kernel(
            _Heads(
                *(hidden.data_ptr(), places.ctypes.data, weights.ctypes.data),
                *(biases.ctypes.data if first.bias else None, out.data_ptr()),
                *(len(places), first.num_outputs, first.num_inputs, hidden.dtype == torch.bfloat16),
            )
        )
        return out


@cache
def compiled_heads() -> NativeHeads | None:
    """The kernel, or None, with a line in the log, where it cannot be had."""
    return compiled(NativeHeads, LOG, "small heads are not compiled but stacked, which is slower")
