"""The gates: what every promotion of a protected alias must show, whoever makes it. Knows no manifests."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, and_, delete, insert, select

from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.names import check_movable_alias
from prefixrack_server.registry.requirements import parse_requirement
from prefixrack_server.registry.transactions import Conn


async def get(conn: Conn, tenant: str, name: str, alias: str) -> list[str]:
    """Requirements such as "f1>=0.9"; none for an alias that is not protected."""
    check_movable_alias(alias)
    found = await conn.scalar(select(tables.alias_gates.c.require).where(_at(tenant, name, alias)))
    return list(found or ())


async def put(write: Write, tenant: str, name: str, alias: str, require: Sequence[str]) -> None:
    """Replace the gates; none lifts the protection. The alias need not be there yet.

    Raises InvalidName, InvalidRequest, or AdapterNotFound.
    """
    check_movable_alias(alias)
    for text in require:
        parse_requirement(text)
    await versions.latest_number(write.conn, tenant, name)
    table = tables.alias_gates
    await write.conn.execute(delete(table).where(_at(tenant, name, alias)))
    if require:
        row = {"tenant": tenant, "name": name, "alias": alias, "require": list(require)}
        await write.conn.execute(insert(table).values(**row, updated_at=write.now_text))


def _at(tenant: str, name: str, alias: str) -> ColumnElement[bool]:
    table = tables.alias_gates
    return and_(versions.of_adapter(table, tenant, name), table.c.alias == alias)
