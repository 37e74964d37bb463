"""The sweeping desk: blobs that no version needs any more, and whose turn it is to remove them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from prefixrack_server.registry import chores, garbage
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk

MAX_SWEPT_AT_ONCE: Final = 200  # writers wait for as long as their files are being removed


class SweepingDesk(Desk):
    async def keep_young(self, blobs: Collection[str]) -> None:
        """Let no sweep take these within the grace time, whoever does it, whether or not a version needs them."""
        if blobs:
            await asyncio.to_thread(_keep_young, self._blobs, blobs, self._database.now())

    async def claim_turn(self, chore: str, period_s: float) -> bool:
        """Whether the caller is the one replica that does this now: nobody else has begun it within `period_s`."""
        before = self._database.now() - timedelta(seconds=period_s)
        if not await self._database.read(lambda conn: chores.is_due(conn, chore, before)):
            return False

        async def change(write: Write) -> bool:
            is_mine = await chores.is_due(write.conn, chore, before)
            if is_mine:
                await chores.begin(write, chore)
            return is_mine

        return await self._write(change)

    async def sweep_orphans(self, min_age_s: float | None = None) -> list[str]:
        """Remove blobs that no version has needed for `min_age_s` (default: the grace time), and return their keys."""
        min_age = timedelta(seconds=self._grace_s if min_age_s is None else min_age_s)
        before = self._database.now() - min_age
        stored = await asyncio.to_thread(_list_blobs, self._blobs, before)
        candidates = await self._database.read(lambda conn: garbage.removable(conn, stored, before))
        orphans: list[str] = []
        for batch in _batches(candidates, MAX_SWEPT_AT_ONCE):
            orphans += await self._sweep(batch, before)
        return orphans

    async def _sweep(self, candidates: Sequence[str], before: datetime) -> list[str]:
        async def change(write: Write) -> list[str]:
            # Asked again under the writers' lock, of SQL and of the store: an upload may have come to need one
            # meanwhile, or be about to.
            unneeded = await garbage.removable(write.conn, candidates, before)
            orphans = await write.aside(_still_old, self._blobs, unneeded, before)
            await write.aside(self._blobs.delete, orphans)
            await garbage.forget(write, unneeded)
            return orphans

        return await self._write(change)


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _list_blobs(blobs: BlobStore, before: datetime) -> list[str]:
    return list(blobs.older_than(before))


def _keep_young(blobs: BlobStore, sha256s: Iterable[str], now: datetime) -> None:
    for sha256 in sha256s:
        blobs.keep_young(sha256, now)


def _still_old(blobs: BlobStore, sha256s: Iterable[str], before: datetime) -> list[str]:
    return [sha256 for sha256 in sha256s if blobs.is_older(sha256, before)]
