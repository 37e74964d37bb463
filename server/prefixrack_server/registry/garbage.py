"""The garbage: which blobs no version needs any more, and since when. Knows blobs by name only."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, or_, select

from prefixrack_server.registry import tables
from prefixrack_server.registry.database import Write, as_text
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.registry.versions import Version


def blobs_of(version: Version) -> tuple[str, str]:
    return version.bundle.manifest_sha256, version.bundle.tensors_sha256


async def mark_dead(write: Write, removed: Iterable[Version]) -> list[str]:
    """Note which blobs of removed versions are needed by none that is left, and return them."""
    keys = dict.fromkeys(sha256 for version in removed for sha256 in blobs_of(version))
    dead = [sha256 for sha256 in keys if not await _is_needed(write.conn, sha256)]
    for sha256 in dead:
        await write.conn.execute(insert(tables.dead_blobs).values(sha256=sha256, since=write.now_text))
    return dead


async def mark_alive(write: Write, version: Version) -> None:
    table = tables.dead_blobs
    await write.conn.execute(delete(table).where(table.c.sha256.in_(blobs_of(version))))


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


async def _is_needed(conn: Conn, sha256: str) -> bool:
    return (await conn.execute(select(tables.versions.c.number).where(_uses(sha256)).limit(1))).first() is not None


def _uses(sha256: str) -> ColumnElement[bool]:
    table = tables.versions
    return or_(table.c.manifest_sha256 == sha256, table.c.tensors_sha256 == sha256)
