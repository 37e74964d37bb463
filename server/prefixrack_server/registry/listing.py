"""The listings: pages of adapters and of versions, in the wire types. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from prefixrack.types import AdapterSummary, VersionInfo
from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.cursors import number_of
from prefixrack_server.registry.names import LATEST, PRODUCTION
from prefixrack_server.registry.patterns import Patterns, fits_any
from prefixrack_server.registry.versions import Version


class Shelf(NamedTuple):
    """What stands under one adapter name."""

    name: str
    created_at: str
    latest: int
    num_versions: int


async def adapters_page(
    conn: AsyncConnection,
    tenant: str,
    limit: int,
    cursor: str | None,
    search: str | None,
    patterns: Sequence[Patterns] = (),
) -> tuple[list[AdapterSummary], str | None]:
    """Adapters by name, after the name `cursor`; `search` is a part of the name, each of `patterns` must fit it."""
    shelves = await _shelves(conn, _wanted(tenant, cursor, search, patterns), limit + 1)
    next_cursor = shelves[limit - 1].name if len(shelves) > limit else None
    return await _summaries(conn, tenant, shelves[:limit]), next_cursor


async def summary(conn: AsyncConnection, tenant: str, name: str) -> AdapterSummary:
    """One adapter as the list shows it. Raises AdapterNotFound."""
    await versions.latest_number(conn, tenant, name)
    shelves = await _shelves(conn, versions.of_adapter(tables.adapters, tenant, name), 1)
    return (await _summaries(conn, tenant, shelves))[0]


async def versions_page(
    conn: AsyncConnection, tenant: str, name: str, limit: int, cursor: str | None
) -> tuple[list[VersionInfo], str | None]:
    """Versions of one adapter, newest first, below the number `cursor`. Raises AdapterNotFound."""
    await versions.latest_number(conn, tenant, name)
    table = tables.versions
    chosen = select(table).where(versions.of_adapter(table, tenant, name)).order_by(table.c.number.desc())
    if cursor is not None:
        chosen = chosen.where(table.c.number < number_of(cursor))
    rows = (await conn.execute(chosen.limit(limit + 1))).mappings().all()
    pointers = (await _pointers(conn, tenant, [name])).get(name, {})
    page = [version_info(versions.as_version(row), pointers) for row in rows[:limit]]
    return page, str(page[-1].version) if len(rows) > limit else None


def version_info(version: Version, aliases: dict[str, int], is_new: bool = True) -> VersionInfo:
    return VersionInfo(
        name=version.name,
        version=version.number,
        digest=version.digest,
        size_bytes=version.size_bytes,
        created_at=version.created_at,
        created_by=version.created_by,
        aliases=sorted(alias for alias, number in aliases.items() if number == version.number),
        is_new=is_new,
        metrics=[metric.model_dump(mode="json") for metric in version.manifest.metrics],
    )


async def pointers(conn: AsyncConnection, tenant: str, name: str) -> dict[str, int]:
    """Every alias of an adapter, `latest` among them. Raises AdapterNotFound."""
    await versions.latest_number(conn, tenant, name)
    return (await _pointers(conn, tenant, [name]))[name]


def _wanted(tenant: str, cursor: str | None, search: str | None, patterns: Sequence[Patterns]) -> ColumnElement[bool]:
    table = tables.adapters
    wanted = [table.c.tenant == tenant, *(fits_any(table.c.name, some) for some in patterns)]
    if cursor is not None:
        wanted.append(table.c.name > cursor)
    if search:
        wanted.append(table.c.name.contains(search.lower(), autoescape=True))
    return and_(*wanted)


async def _shelves(conn: AsyncConnection, wanted: ColumnElement[bool], limit: int) -> list[Shelf]:
    adapters, table = tables.adapters, tables.versions
    same = and_(adapters.c.tenant == table.c.tenant, adapters.c.name == table.c.name)
    chosen = (
        select(adapters.c.name, adapters.c.created_at, func.max(table.c.number), func.count())
        .join(table, same)
        .where(wanted)
        .group_by(adapters.c.name, adapters.c.created_at)
        .order_by(adapters.c.name)
        .limit(limit)
    )
    return [Shelf(*row) for row in (await conn.execute(chosen))]


async def _summaries(conn: AsyncConnection, tenant: str, shelves: Sequence[Shelf]) -> list[AdapterSummary]:
    if not shelves:
        return []
    pointers = await _pointers(conn, tenant, [shelf.name for shelf in shelves])
    chosen = {shelf.name: pointers[shelf.name].get(PRODUCTION, shelf.latest) for shelf in shelves}
    found = await _versions(conn, tenant, chosen)
    return [_summary(shelf, found[shelf.name], pointers[shelf.name]) for shelf in shelves]


def _summary(shelf: Shelf, version: Version, aliases: dict[str, int]) -> AdapterSummary:
    return AdapterSummary(
        name=shelf.name,
        task=version.manifest.task,
        version=version.number,
        digest=version.digest,
        labels=version.manifest.labels,
        aliases=aliases,
        num_versions=shelf.num_versions,
        created_at=shelf.created_at,
    )


async def _pointers(conn: AsyncConnection, tenant: str, names: Sequence[str]) -> dict[str, dict[str, int]]:
    aliases, table = tables.aliases, tables.versions
    newest = select(table.c.name, func.max(table.c.number)).where(table.c.tenant == tenant, table.c.name.in_(names))
    found = {name: {LATEST: number} for name, number in (await conn.execute(newest.group_by(table.c.name)))}
    chosen = select(aliases.c.name, aliases.c.alias, aliases.c.number)
    chosen = chosen.where(aliases.c.tenant == tenant, aliases.c.name.in_(names)).order_by(aliases.c.alias)
    for name, alias, number in await conn.execute(chosen):
        found[name][alias] = number
    return found


async def _versions(conn: AsyncConnection, tenant: str, numbers: dict[str, int]) -> dict[str, Version]:
    table = tables.versions
    any_of = or_(*(versions.of_version(table, tenant, name, number) for name, number in numbers.items()))
    rows = (await conn.execute(select(table).where(any_of))).mappings()
    return {row["name"]: versions.as_version(row) for row in rows}
