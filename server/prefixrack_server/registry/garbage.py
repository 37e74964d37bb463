"""The garbage: which blobs no version needs any more, and since when. Knows blobs by name only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import delete, insert, or_, select

from prefixrack_server.messages import BundleRef
from prefixrack_server.registry import tables
from prefixrack_server.registry.database import Write, as_text
from prefixrack_server.registry.transactions import Conn


def blobs_of(bundle: BundleRef) -> tuple[str, str]:
    return bundle.manifest_sha256, bundle.tensors_sha256


async def mark_dead(write: Write, removed: Iterable[BundleRef]) -> list[str]:
    """Note which blobs of removed versions are needed by none that is left, and give the digests that none has."""
    bundles = list(removed)
    keys = list(dict.fromkeys(sha256 for bundle in bundles for sha256 in blobs_of(bundle)))
    left = await _that_use(write.conn, keys)
    needed = {sha256 for bundle in left for sha256 in blobs_of(bundle)}
    dead = [sha256 for sha256 in keys if sha256 not in needed]
    if dead:
        lines = [{"sha256": sha256, "since": write.now_text} for sha256 in dead]
        await write.conn.execute(insert(tables.dead_blobs), lines)
    used = {bundle.digest for bundle in left}
    return [digest for digest in dict.fromkeys(bundle.digest for bundle in bundles) if digest not in used]


async def mark_alive(write: Write, bundle: BundleRef) -> None:
    table = tables.dead_blobs
    await write.conn.execute(delete(table).where(table.c.sha256.in_(blobs_of(bundle))))


async def removable(conn: Conn, sha256s: Iterable[str], before: datetime) -> list[str]:
    """Those that no version needs, and that lost their last one before `before` or never had one."""
    table = tables.dead_blobs
    dying = set((await conn.execute(select(table.c.sha256).where(table.c.since >= as_text(before)))).scalars())
    needed = await _all_needed(conn)
    return [sha256 for sha256 in sha256s if sha256 not in dying and sha256 not in needed]


async def forget(write: Write, sha256s: Iterable[str]) -> None:
    table = tables.dead_blobs
    for sha256 in sha256s:
        await write.conn.execute(delete(table).where(table.c.sha256 == sha256))


async def _all_needed(conn: Conn) -> set[str]:
    table = tables.versions
    rows = await conn.execute(select(table.c.manifest_sha256, table.c.tensors_sha256))
    return {sha256 for row in rows for sha256 in row}


async def _that_use(conn: Conn, sha256s: Sequence[str]) -> list[BundleRef]:
    table = tables.versions
    uses = or_(table.c.manifest_sha256.in_(sha256s), table.c.tensors_sha256.in_(sha256s))
    found = select(table.c.digest, table.c.manifest_sha256, table.c.tensors_sha256).where(uses).distinct()
    return [BundleRef(*row) for row in await conn.execute(found)]
