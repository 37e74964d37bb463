"""The keeper: makes the engine hold on the device what administrators want kept. Knows digests only."""

from __future__ import annotations

import asyncio

from prefixrack_server.messages import BundleRef, Engine
from prefixrack_server.registry.registry import Registry, Removed


class Keeper:
    """Lives as long as the process. Two versions may have one digest, so the wish is looked up, not passed through."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._engine = engine
        self._told: dict[str, BundleRef] = {}
        self._lock = asyncio.Lock()

    async def let_go(self, removed: Removed) -> None:
        """After a deletion: free the memory of what no version has any more."""
        if removed.was_kept:
            await self.sync()
        for digest in removed.digests:
            self._engine.forget(digest)

    async def sync(self) -> None:
        """Tell the engine what has changed in the registry since the last time."""
        async with self._lock:
            wanted = {version.digest: version.bundle for version in await self._registry.kept()}
            for digest, bundle in self._told.items():
                if digest not in wanted:
                    self._engine.keep_resident(bundle, False)
            for digest, bundle in wanted.items():
                if digest not in self._told:
                    self._engine.keep_resident(bundle, True)
            self._told = wanted
