"""The usage counter: what tenants had computed, in memory until it is written down. Knows no HTTP.

A prediction adds three numbers to a dictionary; the database is written every ten seconds and at the end. What a killed
process had not yet written is lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

from prefixrack.types import UsageLine
from prefixrack_server.registry.registry import Registry

SECONDS_A_DAY: Final = 86_400
LINES_AT_ONCE: Final = 500  # in one transaction: an upload must not wait for all of them


class Key(NamedTuple):
    tenant: str
    day: int  # days since the epoch
    adapter: str


class UsageCounter:
    """Lives as long as the process; of its event loop's thread."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock
        self._lock = asyncio.Lock()
        self._counts: defaultdict[Key, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, tenant: str, adapter: str, num_requests: int, num_rows: int, num_tokens: int) -> None:
        counts = self._counts[Key(tenant, int(self._clock() // SECONDS_A_DAY), adapter)]
        counts[0] += num_requests
        counts[1] += num_rows
        counts[2] += num_tokens

    async def flush(self) -> None:
        """Write down what was counted so far. What could not be written stays for the next time.

        Cancelled, it goes on to its end: a transaction that was broken off may have gone through, or not.
        """
        await asyncio.shield(asyncio.create_task(self._flush()))

    async def _flush(self) -> None:
        async with self._lock:
            for _ in range(math.ceil(len(self._counts) / LINES_AT_ONCE)):
                await self._write(list(islice(self._counts, LINES_AT_ONCE)))

    async def _write(self, keys: Sequence[Key]) -> None:
        taken = {key: self._counts.pop(key) for key in keys}
        try:
            await self._registry.add_usage([_line(key, counts) for key, counts in taken.items()])
        except Exception:
            for key, counts in taken.items():
                self._counts[key] = [sum(pair) for pair in zip(self._counts[key], counts, strict=True)]
            raise


def _line(key: Key, counts: list[int]) -> UsageLine:
    day = datetime.fromtimestamp(key.day * SECONDS_A_DAY, UTC).date()
    requests, rows, tokens = counts
    return UsageLine(
        tenant=key.tenant, day=day.isoformat(), adapter=key.adapter, requests=requests, rows=rows, tokens=tokens
    )
