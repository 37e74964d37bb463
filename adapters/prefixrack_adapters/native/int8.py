"""What stands between products of int8 numbers, in C: to int8 and back, token by token. Knows tensors only."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from prefixrack_adapters.native.activations import ACTIVATIONS
from prefixrack_adapters.native.compiler import compiled, load_library

SOURCE = Path(__file__).with_name("int8.c")
LANES = 16  # of vectors.h: widths are multiples
MAX_WIDTH = 1 << 16  # a token's line lies on the stack
DTYPES = (torch.float32, torch.bfloat16)
LOG = logging.getLogger(__name__)


class Quantised(NamedTuple):
    """Numbers [T, width] as int8 times their token's scale: int8 [T, width] and float32 [T]."""

    values: Tensor
    scales: Tensor


class Channels(NamedTuple):
    """What turns a layer's sums of products into numbers, by output: scales and bias, float32 [width] both."""

    scales: Tensor
    bias: Tensor


class NativeInt8:
    """Of tensors on the CPU without gaps, without gradients. Activations have the names of `ACTIVATIONS`."""

    def __init__(self) -> None:
        """Raises NoCompiler."""
        library = load_library(SOURCE)
        pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._quantise = library.prefixrack_quantise
        self._quantise.argtypes = [pointer, flag, number, number, pointer, pointer]
        self._dequantise = library.prefixrack_dequantise
        self._dequantise.argtypes = [*[pointer] * 4, number, number, pointer, flag]
        self._requantise = library.prefixrack_requantise
        self._requantise.argtypes = [*[pointer] * 4, flag, number, number, pointer, pointer]
        for kernel in (self._quantise, self._dequantise, self._requantise):
            kernel.restype = None

    @staticmethod
    def takes(width: int) -> bool:
        """Whether the kernels compute tokens of so many numbers."""
        return width % LANES == 0 and width <= MAX_WIDTH

    def quantise(self, numbers: Tensor) -> Quantised:
        """Numbers [T, width], float32 or bfloat16."""
        assert numbers.dtype in DTYPES, "the kernel reads these"
        numbers = numbers.contiguous()
        into = _empty(numbers.shape)
        self._quantise(
            *(numbers.data_ptr(), numbers.dtype == torch.bfloat16, *numbers.shape),
            *(into.values.data_ptr(), into.scales.data_ptr()),
        )
        return into

    def dequantise(self, sums: Tensor, scales: Tensor, channels: Channels, out: Tensor) -> Tensor:
        """Sums of products, int32 [T, width], of tokens with these scales → numbers, in `out` of the same shape."""
        assert out.is_contiguous(), "the kernel writes one run"
        assert out.dtype in DTYPES, "the kernel writes these"
        self._dequantise(*_parts(sums, scales, channels), *sums.shape, out.data_ptr(), out.dtype == torch.bfloat16)
        return out

    def requantise(self, sums: Tensor, scales: Tensor, channels: Channels, activation: str) -> Quantised:
        """As `dequantise`, in float32, then activated, then quantised."""
        into = _empty(sums.shape)
        self._requantise(
            *_parts(sums, scales, channels), ACTIVATIONS[activation], *sums.shape, *(part.data_ptr() for part in into)
        )
        return into


def _empty(shape: torch.Size) -> Quantised:
    return Quantised(torch.empty(shape, dtype=torch.int8), torch.empty(shape[0], dtype=torch.float32))


def _parts(sums: Tensor, scales: Tensor, channels: Channels) -> list[int]:
    assert sums.is_contiguous(), "the kernel reads one run"
    assert sums.dtype == torch.int32, "the kernel reads sums as torch gives them"
    return [part.data_ptr() for part in (sums, scales, *channels)]


@cache
def compiled_int8() -> NativeInt8 | None:
    """The kernels, or None, with a line in the log, where they cannot be had."""
    return compiled(NativeInt8, LOG, "the steps between products in int8 are not compiled but several operations each")
