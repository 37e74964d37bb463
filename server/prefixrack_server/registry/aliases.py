"""The aliases: movable names for versions. Promotion and rollback are one call, guarded by entity tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from prefixrack.errors import AliasNotFound, PreconditionFailed, PreconditionRequired
from prefixrack.types import AliasInfo
from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.names import LATEST, check_alias, check_movable_alias
from prefixrack_server.registry.requirements import check_all

ANY: Final = "*"


async def get(conn: AsyncConnection, tenant: str, name: str, alias: str) -> AliasInfo:
    """Raises AdapterNotFound or AliasNotFound."""
    if check_alias(alias) == LATEST:
        return await _latest(conn, tenant, name)
    found = await _find(conn, tenant, name, alias)
    if found is None:
        await versions.latest_number(conn, tenant, name)
        raise AliasNotFound(f"adapter {name!r} has no alias {alias!r}: set it with PUT, or list its aliases")
    return found


async def every(conn: AsyncConnection, tenant: str, name: str) -> list[AliasInfo]:
    """`latest` first, then the others by name."""
    first = await _latest(conn, tenant, name)
    chosen = _select().where(versions.of_adapter(tables.aliases, tenant, name)).order_by(tables.aliases.c.alias)
    return [first, *(_as_info(row) for row in (await conn.execute(chosen)).mappings())]


async def put(
    write: Write,
    tenant: str,
    name: str,
    alias: str,
    number: int,
    if_match: str | None,
    if_none_match: str | None,
    require: Sequence[str] = (),
) -> AliasInfo:
    """Point the alias at a version whose claims meet what is required.

    Raises PreconditionRequired, PreconditionFailed, RequirementNotMet or InvalidRequest, and then changes nothing.
    """
    check_movable_alias(alias)
    version = await versions.get(write.conn, tenant, name, number)
    claims = check_all(version.ref, version.manifest.metrics, require)
    current = await _find(write.conn, tenant, name, alias)
    if current is None:
        _check_absent(alias, if_match)
        await _insert(write, tenant, name, alias, number)
    else:
        _check_current(current, if_match, if_none_match)
        await _move(write, tenant, current, number)
    moved = await get(write.conn, tenant, name, alias)
    return moved.model_copy(update={"claims": claims})


async def remove(write: Write, tenant: str, name: str, alias: str, if_match: str | None) -> AliasInfo:
    """Take the alias away; the version stays. `if_match` is checked where it is given."""
    check_movable_alias(alias)
    current = await get(write.conn, tenant, name, alias)
    if if_match is not None:
        _check_tag(current, if_match)
    await write.conn.execute(delete(tables.aliases).where(_at(tenant, name, alias)))
    return current


def _check_absent(alias: str, if_match: str | None) -> None:
    if if_match is not None:
        raise PreconditionFailed(
            f"If-Match is {if_match}, but the alias {alias!r} does not exist yet: send it without If-Match"
        )


def _check_current(current: AliasInfo, if_match: str | None, if_none_match: str | None) -> None:
    where = f"the alias {current.alias!r} stands on version {current.version} with entity tag {current.etag}"
    if if_none_match is not None:
        raise PreconditionFailed(f"If-None-Match is {if_none_match}, but {where}: send If-Match to move it")
    if if_match is None:
        raise PreconditionRequired(f"{where}: send this tag in If-Match to move it, or * to move it in any case")
    _check_tag(current, if_match)


def _check_tag(current: AliasInfo, if_match: str) -> None:
    allowed = {tag.strip() for tag in if_match.split(",")}
    if not allowed & {ANY, current.etag}:
        raise PreconditionFailed(
            f"If-Match is {if_match}, but the alias {current.alias!r} was changed meanwhile: it stands on version "
            f"{current.version} with entity tag {current.etag}; look at it again, then decide"
        )


async def _insert(write: Write, tenant: str, name: str, alias: str, number: int) -> None:
    row = {"tenant": tenant, "name": name, "alias": alias, "number": number}
    await write.conn.execute(insert(tables.aliases).values(**row, revision=write.revision, updated_at=write.now_text))


async def _move(write: Write, tenant: str, current: AliasInfo, number: int) -> None:
    if current.version == number:
        return
    values = {"number": number, "previous_number": current.version, "revision": write.revision}
    moved = update(tables.aliases).where(_at(tenant, current.name, current.alias))
    await write.conn.execute(moved.values(**values, updated_at=write.now_text))


async def _find(conn: AsyncConnection, tenant: str, name: str, alias: str) -> AliasInfo | None:
    row = (await conn.execute(_select().where(_at(tenant, name, alias)))).mappings().first()
    return None if row is None else _as_info(row)


async def _latest(conn: AsyncConnection, tenant: str, name: str) -> AliasInfo:
    number = await versions.latest_number(conn, tenant, name)
    version = await versions.get(conn, tenant, name, number)
    return AliasInfo(name=name, alias=LATEST, version=number, digest=version.digest, etag=f'"latest-{number}"')


def _at(tenant: str, name: str, alias: str) -> ColumnElement[bool]:
    return and_(versions.of_adapter(tables.aliases, tenant, name), tables.aliases.c.alias == alias)


def _select() -> Select[Any]:
    aliases, table = tables.aliases, tables.versions
    keys = ("tenant", "name", "number")
    same = and_(*(aliases.c[key] == table.c[key] for key in keys))
    return select(aliases, table.c.digest).join(table, same)


def _as_info(row: RowMapping) -> AliasInfo:
    return AliasInfo(
        name=row["name"],
        alias=row["alias"],
        version=row["number"],
        digest=row["digest"],
        etag=f'"{row["revision"]}"',
        previous_version=row["previous_number"],
    )
