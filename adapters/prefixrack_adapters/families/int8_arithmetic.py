"""What stands between products of int8 numbers, as torch's own operations: where nothing can be compiled."""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor

from prefixrack_adapters.families.fused_linear import Activation, activated
from prefixrack_adapters.native.int8 import Channels, NativeInt8, Quantised, compiled_int8

LARGEST: Final = 127.0
TINY: Final = 1e-30  # tokens of a smaller scale are zeros: its inverse could be infinite


class Int8Arithmetic(Protocol):
    """The steps; `NativeInt8` says what each takes and gives."""

    def quantise(self, numbers: Tensor) -> Quantised: ...

    def dequantise(self, sums: Tensor, scales: Tensor, channels: Channels, out: Tensor) -> Tensor: ...

    def requantise(self, sums: Tensor, scales: Tensor, channels: Channels, activation: Activation) -> Quantised: ...


class PlainInt8:
    """The same numbers as the kernels', but for the last bits of an activation."""

    def quantise(self, numbers: Tensor) -> Quantised:
        exact = numbers.float()
        scales = exact.abs().amax(dim=1) / LARGEST
        inverse = torch.where(scales > TINY, 1.0 / scales, 0.0)
        values = (exact * inverse[:, None]).round().nan_to_num(0.0).to(torch.int8)
        return Quantised(values, scales + (exact - exact).sum(dim=1))  # not finite where one of the numbers is not

    def dequantise(self, sums: Tensor, scales: Tensor, channels: Channels, out: Tensor) -> Tensor:
        return out.copy_(_numbers(sums, scales, channels))

    def requantise(self, sums: Tensor, scales: Tensor, channels: Channels, activation: Activation) -> Quantised:
        return self.quantise(activated(_numbers(sums, scales, channels), activation))


def _numbers(sums: Tensor, scales: Tensor, channels: Channels) -> Tensor:
    return sums * (scales[:, None] * channels.scales) + channels.bias


def arithmetic_for(*widths: int) -> Int8Arithmetic:
    """The compiled steps, where there is a compiler and they take tokens of these widths."""
    native = compiled_int8() if all(map(NativeInt8.takes, widths)) else None
    return native or PlainInt8()
