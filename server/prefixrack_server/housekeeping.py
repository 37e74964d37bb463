"""Housekeeping: what has to happen now and then, whether or not anybody asks. Knows no HTTP and no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from prefixrack.errors import RegistryUnavailable
from prefixrack_server import oidc
from prefixrack_server.holds import Holds
from prefixrack_server.keeper import Keeper
from prefixrack_server.oidc import TokenVerifier
from prefixrack_server.registry.registry import Registry
from prefixrack_server.usage import UsageCounter

REFRESH_S = 0.5
SWEEP = "sweep"
SWEEP_CHECK_S = 60.0  # whoever had the last turn may be gone
KEEP_YOUNG_S = 10.0  # far below the grace time, after which a sweep would take them
USAGE_S = 10.0

log = structlog.stdlib.get_logger("prefixrack.housekeeping")


async def keep_house(registry: Registry, keeper: Keeper, holds: Holds, usage: UsageCounter) -> None:
    """What every front end does: see other servers' changes within about half a second, keep the files of what it is
    still using from being swept, and write down what tenants used.

    Bulk bodies may use a deleted version longer than the grace time: hence the second.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(every(REFRESH_S, Follower(registry, keeper).turn))
        group.create_task(every(KEEP_YOUNG_S, lambda: registry.keep_young(holds.blobs())))
        group.create_task(every(USAGE_S, usage.flush))


async def keep_keys(verifier: TokenVerifier | None) -> None:
    """What every front end does where tokens are taken: follow what their issuer publishes."""
    if verifier is not None:
        await every(oidc.REFRESH_S, verifier.refresh)


async def sweep(registry: Registry, period_s: float) -> None:
    """What a server does once, however many front ends it has: remove files that nobody needs, where none of the
    servers on this database has done it within `period_s`."""

    async def turn() -> None:
        if await registry.claim_turn(SWEEP, period_s):
            await registry.sweep_orphans()

    await every(min(period_s, SWEEP_CHECK_S), turn)


async def every(period_s: float, turn: Callable[[], Awaitable[object]]) -> None:
    """Take a turn again and again.

    One that fails is logged, and the next one tries again: a database or a disk that is away for a while is no
    reason to stop, and nobody would notice that it had.
    """
    while True:
        await asyncio.sleep(period_s)
        try:
            await turn()
        except RegistryUnavailable as fault:
            log.warning("housekeeping waits", reason=fault.detail)
        except Exception:
            log.exception("housekeeping failed")


class Follower:
    """Sees what other servers changed in the database."""

    def __init__(self, registry: Registry, keeper: Keeper) -> None:
        self._registry = registry
        self._keeper = keeper
        self._seen: int | None = None

    async def turn(self) -> None:
        revision = await self._registry.refresh()
        if revision != self._seen:
            await self._keeper.sync()
        self._seen = revision
