"""Where a backbone computes: names that a machine has, and the device that is current meanwhile."""

from __future__ import annotations

import pytest
import torch

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.devices import current, resolve_device


def test_a_device_that_is_not_there_is_refused_by_name() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InvalidRequest, match=r"device 'cuda:99' cannot be used \(.+\): use auto, cpu or cuda"):
        resolve_device("cuda:99")


def test_a_gpu_is_made_current_for_a_block_and_a_cpu_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = []

    class FakeGuard:
        def __init__(self, device: str) -> None:
            self.device = device

        def __enter__(self) -> None:
            entered.append(self.device)

        def __exit__(self, *_: object) -> None:
            entered.append("before")

    monkeypatch.setattr(torch.cuda, "device", FakeGuard)
    for device in ("cpu", "cuda:1"):
        with current(device):
            pass
    assert entered == ["cuda:1", "before"]
