"""Copies between the machine's memory and a GPU's that neither side waits for. Knows arrays and tensors only."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """A copy on `device`. To a GPU it goes through pinned memory: the caller does not wait for what runs there."""
    host = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cpu":
        return host.clone()
    return host.pin_memory().to(device, non_blocking=True)


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
