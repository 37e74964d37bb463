"""Housekeeping goes on, whatever goes wrong in one of its turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefixrack_server import housekeeping
from prefixrack_server.holds import Holds


class ShakyRegistry:
    """Fails in ways that nobody foresaw, at the first read and at the first sweep."""

    def __init__(self) -> None:
        self.num_reads = 0
        self.num_sweeps = 0

    async def refresh(self) -> None:
        """Nothing is remembered."""

    async def revision(self) -> int:
        self.num_reads += 1
        if self.num_reads == 1:
            raise RuntimeError("unforeseen")
        return self.num_reads

    async def sweep_orphans(self, held: Any) -> None:
        assert held() == set()
        self.num_sweeps += 1
        if self.num_sweeps == 1:
            raise ValueError("unforeseen too")


class CountingKeeper:
    def __init__(self) -> None:
        self.num_syncs = 0

    async def sync(self) -> None:
        self.num_syncs += 1


async def test_a_turn_that_fails_does_not_end_it(monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    monkeypatch.setattr(housekeeping, "REFRESH_S", 0.001)
    monkeypatch.setattr(housekeeping, "REFRESHES_PER_SWEEP", 2)
    registry, keeper = ShakyRegistry(), CountingKeeper()
    task = asyncio.create_task(housekeeping.keep_house(registry, keeper, Holds()))  # type: ignore[arg-type]
    await until(lambda: registry.num_sweeps >= 2 or task.done())
    assert not task.done()
    assert keeper.num_syncs > 1
    task.cancel()
