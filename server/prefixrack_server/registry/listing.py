"""The listings: pages of adapters and of versions, in the wire types. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Row, Subquery, and_, exists, func, select

from prefixrack.types import AdapterSummary, VersionInfo
from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.cursors import number_of
from prefixrack_server.registry.names import LATEST, PRODUCTION
from prefixrack_server.registry.patterns import Patterns, fits_any
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.registry.versions import Version


async def adapters_page(
    conn: Conn,
    tenant: str,
    limit: int,
    cursor: str | None,
    search: str | None,
    patterns: Sequence[Patterns] = (),
) -> tuple[list[AdapterSummary], str | None]:
    """Adapters by name, after the name `cursor`; `search` is a part of the name, each of `patterns` must fit it."""
    found = await _summaries(conn, tenant, _wanted(tenant, cursor, search, patterns), limit + 1)
    return found[:limit], found[limit - 1].name if len(found) > limit else None


async def summary(conn: Conn, tenant: str, name: str) -> AdapterSummary:
    """One adapter as the list shows it. Raises AdapterNotFound."""
    await versions.latest_number(conn, tenant, name)
    return (await _summaries(conn, tenant, versions.of_adapter(tables.adapters, tenant, name), 1))[0]


async def versions_page(
    conn: Conn, tenant: str, name: str, limit: int, cursor: str | None
) -> tuple[list[VersionInfo], str | None]:
    """Versions of one adapter, newest first, below the number `cursor`. Raises AdapterNotFound."""
    await versions.latest_number(conn, tenant, name)
    table = tables.versions
    chosen = select(table).where(versions.of_adapter(table, tenant, name)).order_by(table.c.number.desc())
    if cursor is not None:
        chosen = chosen.where(table.c.number < number_of(cursor))
    rows = (await conn.execute(chosen.limit(limit + 1))).mappings().all()
    pointed = await pointers(conn, tenant, name)
    page = [version_info(versions.as_version(row), pointed) for row in rows[:limit]]
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


async def pointers(conn: Conn, tenant: str, name: str) -> dict[str, int]:
    """Every alias of an adapter, `latest` among them. Raises AdapterNotFound."""
    newest = await versions.latest_number(conn, tenant, name)
    aliases = await _aliases(conn, tenant, name, name)
    return {LATEST: newest} | aliases.get(name, {})


def _wanted(tenant: str, cursor: str | None, search: str | None, patterns: Sequence[Patterns]) -> ColumnElement[bool]:
    table = tables.adapters
    wanted = [table.c.tenant == tenant, *(fits_any(table.c.name, some) for some in patterns)]
    if cursor is not None:
        wanted.append(table.c.name > cursor)
    if search:
        wanted.append(table.c.name.contains(search.lower(), autoescape=True))
    return and_(*wanted)


def _shelves(wanted: ColumnElement[bool], limit: int) -> Subquery:
    """A page of names with how many versions each has, and the number of the newest one.

    Asked of the names on the page alone: adding up all versions of a tenant would take longer the more it has.
    """
    adapters, table = tables.adapters, tables.versions
    own = _is_same(adapters, table)
    newest = select(func.max(table.c.number)).where(own).scalar_subquery()
    count = select(func.count()).where(own).scalar_subquery()
    shelves = select(*adapters.c, newest.label("latest"), count.label("num_versions"))
    return shelves.where(wanted, exists().where(own)).order_by(adapters.c.name).limit(limit).subquery()


async def _summaries(conn: Conn, tenant: str, wanted: ColumnElement[bool], limit: int) -> list[AdapterSummary]:
    """Each with what its version says that callers of the bare name get; of manifests no more is read than is shown."""
    shelves, table, production = _shelves(wanted, limit), tables.versions, tables.aliases
    number = func.coalesce(production.c.number, shelves.c.latest)
    at_production = and_(_is_same(production, shelves), production.c.alias == PRODUCTION)
    shown = (table.c.number, table.c.digest, *(table.c.manifest[field].label(field) for field in ("task", "labels")))
    chosen = (
        select(shelves.c.name, shelves.c.created_at, shelves.c.latest, shelves.c.num_versions, *shown)
        .outerjoin_from(shelves, production, at_production)
        .join(table, and_(_is_same(table, shelves), table.c.number == number))
        .order_by(shelves.c.name)
    )
    rows = (await conn.execute(chosen)).all()
    aliases = await _aliases(conn, tenant, rows[0].name, rows[-1].name) if rows else {}
    return [_summary(row, {LATEST: row.latest} | aliases.get(row.name, {})) for row in rows]


def _is_same(one: FromClause, other: FromClause) -> ColumnElement[bool]:
    """Whether rows of two tables are of the same adapter."""
    return and_(one.c.tenant == other.c.tenant, one.c.name == other.c.name)


def _summary(row: Row[Any], aliases: dict[str, int]) -> AdapterSummary:
    return AdapterSummary(
        name=row.name,
        task=row.task,
        version=row.number,
        digest=row.digest,
        labels=row.labels,
        aliases=aliases,
        num_versions=row.num_versions,
        created_at=row.created_at,
    )


async def _aliases(conn: Conn, tenant: str, first: str, last: str) -> dict[str, dict[str, int]]:
    """Those of the adapters from one name to another, by adapter."""
    table = tables.aliases
    chosen = select(table.c.name, table.c.alias, table.c.number)
    chosen = chosen.where(table.c.tenant == tenant, table.c.name.between(first, last)).order_by(table.c.alias)
    found: dict[str, dict[str, int]] = {}
    for name, alias, number in await conn.execute(chosen):
        found.setdefault(name, {})[alias] = number
    return found
