"""Housekeeping: what runs beside the requests as long as the process lives. Knows no HTTP."""

from __future__ import annotations

import asyncio

import structlog

from prefixrack_server.holds import Holds
from prefixrack_server.keeper import Keeper
from prefixrack_server.registry.registry import Registry

REFRESH_S = 1.0
REFRESHES_PER_SWEEP = 600

log = structlog.stdlib.get_logger("prefixrack.housekeeping")


async def keep_house(registry: Registry, keeper: Keeper, holds: Holds) -> None:
    """See other processes' changes within about a second; remove files that nobody needs every ten minutes.

    A turn that fails is logged, and the next one tries again: a database or a disk that is away for a while is no
    reason to stop, and nobody would notice that it had.
    """
    seen: int | None = None
    turn = 0
    while True:
        await asyncio.sleep(REFRESH_S)
        turn += 1
        try:
            seen = await _follow(registry, keeper, seen)
            if turn % REFRESHES_PER_SWEEP == 0:
                await registry.sweep_orphans(held=holds.blobs)
        except Exception:
            log.exception("housekeeping failed")


async def _follow(registry: Registry, keeper: Keeper, seen: int | None) -> int:
    await registry.refresh()
    revision = await registry.revision()
    if revision != seen:
        await keeper.sync()
    return revision
