"""The tenant desk: tenants are made, changed and disabled, each change on the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from prefixrack.errors import Conflict
from prefixrack.types import TenantInfo
from prefixrack_server.registry import keys, storage_quota, tenants
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.principal import NOBODY, Actor
from prefixrack_server.registry.transactions import Conn


class TenantDesk(Desk):
    async def ensure_tenant(self, tenant: str) -> None:
        """Make sure that a tenant exists."""
        if await self._database.read(lambda conn: tenants.is_known(conn, tenant)):
            return
        with suppress(Conflict):  # another process came first
            await self.create_tenant(tenant)

    async def create_tenant(
        self, tenant: str, settings: Mapping[str, Any] | None = None, *, by: Actor = NOBODY
    ) -> TenantInfo:
        """Raises InvalidName, InvalidRequest, or Conflict where there is one of this name."""

        async def change(write: Write) -> TenantInfo:
            made = await tenants.create(write, tenant, settings or {})
            await write.record(tenant, by, "tenant.create", tenant, after=_audited(made))
            return made

        return await self._write(change, self._grants.clear)

    async def change_tenant(
        self, tenant: str, settings: Mapping[str, Any], is_disabled: bool | None = None, *, by: Actor = NOBODY
    ) -> TenantInfo:
        """Set some of a tenant's columns; refuse all of its keys, or admit them again. Nothing of it is removed.

        Raises TenantNotFound, InvalidRequest, or Conflict where no key with the scope `admin` would be left.
        """

        async def change(write: Write) -> TenantInfo:
            before = await tenants.get(write.conn, tenant)
            is_lockable = bool(await keys.admin_ids(write))
            after = await tenants.change(write, tenant, settings, is_disabled)
            if is_lockable and not await keys.admin_ids(write):
                raise Conflict(
                    f"the tenant {tenant!r} has the last keys with the scope 'admin': make one for another tenant first"
                )
            await write.record(tenant, by, "tenant.update", tenant, before=_audited(before), after=_audited(after))
            return after

        return await self._write(change, self._grants.clear)

    async def get_tenant(self, tenant: str) -> TenantInfo:
        """With what it has stored. Raises TenantNotFound."""

        async def look_up(conn: Conn) -> TenantInfo:
            found = await tenants.get(conn, tenant)
            return found.model_copy(update={"stored": await storage_quota.stored(conn, tenant)})

        return await self._database.read(look_up)

    async def list_tenants(self, limit: int, cursor: str | None = None) -> tuple[list[TenantInfo], str | None]:
        """A page by name, and the cursor of the next one."""
        return await self._database.read(lambda conn: tenants.page(conn, limit, cursor))


def _audited(tenant: TenantInfo) -> dict[str, Any]:
    return tenant.model_dump(mode="json", exclude={"name", "created_at", "stored"})
