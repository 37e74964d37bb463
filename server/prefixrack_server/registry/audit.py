"""The audit log: who changed what, as pages. Its lines are written by `Write.record`, with the change itself."""

from __future__ import annotations

from sqlalchemy import or_, select

from prefixrack.types import AuditLine
from prefixrack_server.registry import tables
from prefixrack_server.registry.cursors import number_of
from prefixrack_server.registry.transactions import Conn


async def page(
    conn: Conn,
    tenant: str,
    limit: int,
    cursor: str | None,
    action: str | None = None,
    adapter: str | None = None,
    names_every_key: bool = False,
) -> tuple[list[AuditLine], str | None]:
    """Lines about a tenant's things, newest first, below the number `cursor`; `action` is how they begin.

    With `adapter` only those about it, its versions and its aliases. Of keys of other tenants, those of admins of all,
    the names are there with `names_every_key` only.
    """
    table, keys = tables.audit, tables.api_keys
    is_its_key = keys.c.id == table.c.key_id
    if not names_every_key:
        is_its_key &= keys.c.tenant == table.c.tenant
    lines = select(table, keys.c.name.label("key_name")).outerjoin_from(table, keys, is_its_key)
    chosen = lines.where(table.c.tenant == tenant).order_by(table.c.id.desc()).limit(limit + 1)
    if cursor is not None:
        chosen = chosen.where(table.c.id < number_of(cursor))
    if action is not None:
        chosen = chosen.where(table.c.action.startswith(action, autoescape=True))
    if adapter is not None:
        target = table.c.target  # name, name@7, name@alias
        chosen = chosen.where(or_(target == adapter, target.startswith(f"{adapter}@", autoescape=True)))
    found = [AuditLine(**row) for row in (await conn.execute(chosen)).mappings()]
    return found[:limit], str(found[limit - 1].id) if len(found) > limit else None
