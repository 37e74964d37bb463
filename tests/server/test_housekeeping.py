"""Housekeeping goes on, whatever goes wrong in one of its turns."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from prefixrack.types import UsageLine
from prefixrack_server import housekeeping
from prefixrack_server.holds import Holds
from prefixrack_server.messages import BundleRef
from prefixrack_server.usage import UsageCounter

HELD = BundleRef("d", "m", "t")


class ShakyRegistry:
    """Each thing fails the first time, in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.num_reads = 0
        self.num_sweeps = 0
        self.num_used = 0
        self.kept_young: list[Collection[str]] = []

    async def refresh(self) -> int:
        self.num_reads += 1
        if self.num_reads == 1:
            raise RuntimeError("unforeseen")
        return self.num_reads

    async def keep_young(self, blobs: Collection[str]) -> None:
        self.kept_young.append(blobs)
        if len(self.kept_young) == 1:
            raise OSError("unforeseen")

    async def claim_turn(self, chore: str, period_s: float) -> bool:
        return True

    async def add_usage(self, lines: Collection[UsageLine]) -> None:
        self.num_used += 1
        if self.num_used == 1:
            raise RuntimeError("unforeseen")

    async def sweep_orphans(self) -> None:
        self.num_sweeps += 1
        if self.num_sweeps == 1:
            raise ValueError("unforeseen too")


class CountingKeeper:
    def __init__(self) -> None:
        self.num_syncs = 0

    async def sync(self) -> None:
        self.num_syncs += 1


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> ShakyRegistry:
    for period in ("REFRESH_S", "KEEP_YOUNG_S", "USAGE_S"):
        monkeypatch.setattr(housekeeping, period, 0.001)
    return ShakyRegistry()


async def test_a_turn_that_fails_does_not_end_it(registry: ShakyRegistry, until: Any) -> None:
    keeper, holds, usage = CountingKeeper(), Holds(), UsageCounter(registry)  # type: ignore[arg-type]
    usage.add("acme", "a", 1, 1, 1)
    with holds.hold([HELD]):
        task = asyncio.create_task(housekeeping.keep_house(registry, keeper, holds, usage))  # type: ignore[arg-type]
        await until(lambda: task.done() or min(keeper.num_syncs, len(registry.kept_young), registry.num_used) > 1)
        assert not task.done()
    assert registry.kept_young[-1] == {"m", "t"}
    task.cancel()


async def test_a_sweep_that_fails_does_not_end_it(registry: ShakyRegistry, until: Any) -> None:
    task = asyncio.create_task(housekeeping.sweep(registry, 0.001))  # type: ignore[arg-type]
    await until(lambda: registry.num_sweeps > 1 or task.done())
    assert not task.done()
    task.cancel()
