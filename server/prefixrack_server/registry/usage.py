"""The usage: what each tenant had computed, by day and adapter. Rows grow while their day lasts. Knows no HTTP.

`adapter` is the name as the tenant's own callers say it, with `tenant:` before it where it is another tenant's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from prefixrack.types import UsageLine
from prefixrack_server.registry import tables
from prefixrack_server.registry.cursors import foreign_cursor
from prefixrack_server.registry.transactions import Conn

COUNTS: Final = ("requests", "rows", "tokens")
INSERT: Final[Mapping[str, Callable[[Any], postgresql.Insert | sqlite.Insert]]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


async def add(conn: Conn, lines: Sequence[UsageLine]) -> None:
    """Add to what is counted already. In one order for all: two servers that add at once cannot block each other."""
    table = tables.usage
    line = INSERT[conn.dialect.name](table)
    summed = {name: table.c[name] + line.excluded[name] for name in COUNTS}
    statement = line.on_conflict_do_update(index_elements=list(table.primary_key), set_=summed)
    ordered = sorted(lines, key=lambda line: (line.tenant, line.day, line.adapter))
    await conn.execute(statement, [line.model_dump() for line in ordered])


async def page(
    conn: Conn, tenant: str, since: date | None, until: date | None, limit: int, cursor: str | None
) -> tuple[list[UsageLine], str | None]:
    """What a tenant used from the day `since` to the day `until`, by day and adapter, and the next page's cursor."""
    table = tables.usage
    chosen = select(table).where(and_(table.c.tenant == tenant, *_days(since, until)))
    if cursor is not None:
        chosen = chosen.where(tuple_(table.c.day, table.c.adapter) > _place(cursor))
    ordered = chosen.order_by(table.c.day, table.c.adapter).limit(limit + 1)
    found = [UsageLine(**row) for row in (await conn.execute(ordered)).mappings()]
    last = found[limit - 1] if len(found) > limit else None
    return found[:limit], None if last is None else f"{last.day}/{last.adapter}"


def _days(since: date | None, until: date | None) -> Iterable[ColumnElement[bool]]:
    day = tables.usage.c.day
    if since is not None:
        yield day >= since.isoformat()
    if until is not None:
        yield day <= until.isoformat()


def _place(cursor: str) -> tuple[Any, Any]:
    day, delimiter, adapter = cursor.partition("/")
    if not delimiter or len(cursor) > 200:
        raise foreign_cursor(cursor)
    return day, adapter
