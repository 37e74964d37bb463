"""The chores: work that one replica does for all, and when it was last begun. Knows no work."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import insert, select, update

from prefixrack_server.registry import tables
from prefixrack_server.registry.database import Write, as_text
from prefixrack_server.registry.transactions import Conn


async def is_due(conn: Conn, chore: str, before: datetime) -> bool:
    """Whether nobody has begun it since `before`."""
    table = tables.chores
    begun_at = await conn.scalar(select(table.c.begun_at).where(table.c.chore == chore))
    return begun_at is None or begun_at < as_text(before)


async def begin(write: Write, chore: str) -> None:
    table = tables.chores
    moved = await write.conn.execute(update(table).where(table.c.chore == chore).values(begun_at=write.now_text))
    if moved.rowcount == 0:
        await write.conn.execute(insert(table).values(chore=chore, begun_at=write.now_text))
