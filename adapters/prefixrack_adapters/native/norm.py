"""A sum and its normalisation in C: states and residual are read once, the sum stays unrounded. Knows tensors only."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from prefixrack_adapters.native.compiler import compiled, load_library

SOURCE = Path(__file__).with_name("norm.c")
LANES = 16  # of vectors.h: the width is a multiple
DTYPES = (torch.float32, torch.bfloat16)
LOG = logging.getLogger(__name__)


class _Sum(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("states", "residual", "places")),
        *((name, ctypes.c_int64) for name in ("num_tokens", "width")),
        ("is_bf16", ctypes.c_int),
    )


class Norm(ctypes.Structure):
    """Of normalise.h."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float))

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Self:
        return cls(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


class NativeNorm:
    """Of tensors on the CPU, without gradients."""

    def __init__(self) -> None:
        """Raises NoCompiler."""
        self._kernel = load_library(SOURCE).prefixrack_add_and_normalise
        self._kernel.argtypes = [ctypes.POINTER(_Sum), ctypes.POINTER(Norm)]
        self._kernel.restype = None

    @staticmethod
    def takes(norm: nn.LayerNorm) -> bool:
        """Whether the kernel computes this normalisation. What it is called with must be of the same dtype."""
        weight, bias = norm.weight, norm.bias
        has_right_weights = weight.dtype in DTYPES and bias is not None and bias.dtype == weight.dtype
        return has_right_weights and weight.is_cpu and weight.dim() == 1 and len(weight) % LANES == 0

    def __call__(self, states: Tensor, residual: Tensor, norm: nn.LayerNorm, places: Tensor | None = None) -> Tensor:
        """LayerNorm(states + residual), both [T, width]. The result is in `states`, which has no gaps.

        `places` [T] int64 are the lines of a longer `residual` that are added, in its range.
        """
        assert states.is_contiguous(), "the kernel writes where it reads"
        assert places is None or (places.is_contiguous() and places.dtype == torch.int64), "the kernel's numbers"
        assert states.dtype == residual.dtype == norm.weight.dtype, "the kernel reads one dtype"
        residual = residual.contiguous()
        where = None if places is None else places.data_ptr()
        is_bf16 = states.dtype == torch.bfloat16
        self._kernel(_Sum(states.data_ptr(), residual.data_ptr(), where, *states.shape, is_bf16), Norm.of(norm))
        return states


@cache
def compiled_norm() -> NativeNorm | None:
    """The kernel, or None, with a line in the log, where it cannot be had."""
    return compiled(NativeNorm, LOG, "sums and normalisations are not compiled but two operations, which is slower")
