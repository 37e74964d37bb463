"""The tenants: who owns adapters and keys, with what share and what quotas. Knows no HTTP.

Functions that take a `Write` belong to the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import RowMapping, insert, select, update

from prefixrack.errors import Conflict, TenantNotFound
from prefixrack.types import Quotas, TenantInfo
from prefixrack_server.registry import tables
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.names import check_tenant
from prefixrack_server.registry.patterns import check_patterns
from prefixrack_server.registry.transactions import Conn

DEFAULT_TENANT: Final = "default"  # of a server that nobody has told of tenants
QUOTAS: Final = tuple(Quotas.model_fields)


async def create(write: Write, name: str, settings: Mapping[str, Any]) -> TenantInfo:
    """A new tenant; `settings` are columns. Raises InvalidName, InvalidRequest or Conflict."""
    check_tenant(name)
    if await is_known(write.conn, name):
        raise Conflict(
            f"there is a tenant {name!r} already: change it with PATCH or `prefixrack tenants update`, "
            "or choose another name"
        )
    values = _checked(settings)
    await write.conn.execute(insert(tables.tenants).values(name=name, created_at=write.now_text, **values))
    return await get(write.conn, name)


async def change(write: Write, name: str, settings: Mapping[str, Any], is_disabled: bool | None = None) -> TenantInfo:
    """Set the columns in `settings` and leave the others; a disabled tenant keeps the time of that.

    Raises TenantNotFound or InvalidRequest.
    """
    values, before = _checked(settings), await get(write.conn, name)
    if is_disabled is not None:
        values["disabled_at"] = (before.disabled_at or write.now_text) if is_disabled else None
    if values:
        await write.conn.execute(update(tables.tenants).where(tables.tenants.c.name == name).values(**values))
    return await get(write.conn, name)


async def get(conn: Conn, name: str) -> TenantInfo:
    """Raises TenantNotFound."""
    table = tables.tenants
    row = (await conn.execute(select(table).where(table.c.name == name))).mappings().first()
    if row is None:
        raise unknown_tenant(name)
    return _as_info(row)


async def is_known(conn: Conn, name: str) -> bool:
    table = tables.tenants
    return await conn.scalar(select(table.c.name).where(table.c.name == name)) is not None


async def page(conn: Conn, limit: int, cursor: str | None) -> tuple[list[TenantInfo], str | None]:
    """Tenants by name, after the name `cursor`."""
    table = tables.tenants
    chosen = select(table).order_by(table.c.name).limit(limit + 1)
    if cursor is not None:
        chosen = chosen.where(table.c.name > cursor)
    found = [_as_info(row) for row in (await conn.execute(chosen)).mappings()]
    return found[:limit], found[limit - 1].name if len(found) > limit else None


def unknown_tenant(name: str) -> TenantNotFound:
    """The same for one that is not there and for one that is none of the caller's business."""
    return TenantNotFound(f"there is no tenant {name[:80]!a}: GET /admin/v1/tenants lists them for administrators")


def quotas_of(row: RowMapping) -> Quotas:
    return Quotas(**{name: row[name] for name in QUOTAS})


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(settings)
    if "adapters" in values:
        values["adapters"] = check_patterns(values["adapters"])
    return values


def _as_info(row: RowMapping) -> TenantInfo:
    return TenantInfo(
        name=row["name"],
        weight=row["weight"],
        quotas=quotas_of(row),
        adapters=row["adapters"],
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
    )
