"""Copies between the machine's memory and a GPU's that neither side waits for. Knows arrays and tensors only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A copy on `device`. To a GPU it goes through pinned memory: the caller does not wait for what runs there."""
    host = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cpu":
        return host.clone()
    return host.pin_memory().to(device, non_blocking=True)


class Uploads:
    """Copies to one device beside what it computes. For any thread; each waits for its own copies alone.

    To a GPU they run on a stream of their own, one for all threads: a stream's freed memory is used again by that
    stream only, and copies run one behind the other anyway. Where the device is the CPU there is nothing to copy.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def staged(self, tensor: Tensor) -> Tensor:
        """The tensor in memory of this machine that the device can read by itself."""
        return tensor if self._stream is None else tensor.pin_memory()

    def staged_bytes(self, tensor: Tensor) -> int:
        """Memory that a staged tensor takes. Of pinned memory PyTorch gives out powers of two."""
        return tensor.nbytes if self._stream is None else 1 << max(0, tensor.nbytes - 1).bit_length()

    def upload(self, copy_all: Callable[[Callable[[Tensor], Tensor]], T]) -> T:
        """What `copy_all` makes with the function that it is given, once it has arrived: however much, with one wait.

        That function starts the copy of a staged tensor. The copies may be used by, and freed while something runs on,
        the device's default stream, where packs are computed.
        """
        if self._stream is None:
            return copy_all(lambda tensor: tensor)
        computing = torch.cuda.default_stream(self._device)

        def copy(tensor: Tensor) -> Tensor:
            there = tensor.to(self._device, non_blocking=True)
            there.record_stream(computing)
            return there

        arrived = torch.cuda.Event(blocking=True)  # a thread that waits leaves its core to others
        with torch.cuda.stream(self._stream):
            copies = copy_all(copy)
            arrived.record()
        arrived.synchronize()
        return copies


class ToHost:
    """Tensors on their way to the machine's memory. `wait` gives them, once everything before them is computed."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._hosts = [_host_copy(tensor) for tensor in tensors]
        self._arrived: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def wait(self) -> list[Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._hosts


def _host_copy(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
