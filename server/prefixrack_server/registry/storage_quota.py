"""The storage quotas: how many adapters a tenant may have, and how many bytes of them. Knows no HTTP."""

from __future__ import annotations

from sqlalchemy import distinct, func, select

from prefixrack.errors import StorageQuotaExceeded
from prefixrack.types import Stored
from prefixrack_server.registry import tables, tenants, versions
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.transactions import Conn

FREE_SOME = "delete some, or ask an administrator for a larger quota"


async def stored(conn: Conn, tenant: str) -> Stored:
    """What the tenant has now; a version's bytes count for each adapter that has it."""
    table = tables.versions
    counts = select(func.count(distinct(table.c.name)), func.coalesce(func.sum(table.c.size_bytes), 0))
    num_adapters, num_bytes = (await conn.execute(counts.where(table.c.tenant == tenant))).one()
    return Stored(num_adapters=int(num_adapters), num_bytes=int(num_bytes))


async def check_room(write: Write, tenant: str, name: str, size_bytes: int) -> None:
    """Before a version is added, in the transaction that adds it: no two uploads can take the same room.

    Raises StorageQuotaExceeded.
    """
    quotas = (await tenants.get(write.conn, tenant)).quotas
    if quotas.max_adapters is None and quotas.max_bytes is None:
        return
    now = await stored(write.conn, tenant)
    if quotas.max_bytes is not None and now.num_bytes + size_bytes > quotas.max_bytes:
        raise StorageQuotaExceeded(
            f"the tenant {tenant!r} has {now.num_bytes} bytes of adapters, with this one of {size_bytes} it would have "
            f"more than the {quotas.max_bytes} that it may have: {FREE_SOME}"
        )
    is_new = not await versions.digests_of(write.conn, tenant, name)
    if quotas.max_adapters is not None and is_new and now.num_adapters >= quotas.max_adapters:
        raise StorageQuotaExceeded(
            f"the tenant {tenant!r} has {now.num_adapters} adapters and may have {quotas.max_adapters}: {FREE_SOME}"
        )
