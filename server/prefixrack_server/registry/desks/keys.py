"""The key desk: API keys are made, rotated and revoked, each change on the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from prefixrack.types import KeyInfo
from prefixrack_server.registry import keys
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.principal import NOBODY, Actor
from prefixrack_server.registry.tenants import DEFAULT_TENANT


class KeyDesk(Desk):
    async def create_key(
        self,
        tenant: str,
        scopes: Iterable[str],
        expires_at: datetime | None = None,
        adapters: Iterable[str] = (),
        *,
        name: str | None = None,
        by: Actor = NOBODY,
    ) -> KeyInfo:
        """A new API key. Its secret is in this answer and nowhere else.

        Raises TenantNotFound, or InvalidRequest for unknown scopes, patterns and names.
        """
        return await self._write(
            lambda write: _create_key(write, tenant, scopes, expires_at, adapters, name, by), self._grants.clear
        )

    async def rotate_key(
        self,
        tenant: str,
        key_id: str,
        overlap: timedelta | None = None,
        *,
        may_rotate_admins: bool = True,
        by: Actor = NOBODY,
    ) -> KeyInfo:
        """A second key that may do what this one may; this one ends by `revoke_key`, or after `overlap`.

        Raises KeyNotFound, Forbidden for an admin's key, or Conflict for one that does not hold or has a successor.
        """

        async def change(write: Write) -> KeyInfo:
            made = await keys.rotate(write, tenant, key_id, may_rotate_admins, overlap)
            overlap_s = None if overlap is None else overlap.total_seconds()
            await write.record(tenant, by, "key.rotate", key_id, successor=made.id, overlap_s=overlap_s)
            return made

        return await self._write(change, self._grants.clear)

    async def ensure_admin_key(self) -> str | None:
        """The secret of a first administrator's key, if there was never any key; else None."""

        async def change(write: Write) -> str | None:
            if await keys.is_any(write.conn):
                return None
            return (await _create_key(write, DEFAULT_TENANT, ["admin"], None, (), "first admin", NOBODY)).secret

        return await self._write(change, self._grants.clear)

    async def new_admin_key(self) -> str | None:
        """The secret of one more administrator's key, for who can start the server but has lost the others."""
        return (await self.create_key(DEFAULT_TENANT, ["admin"], name="admin made at a start")).secret

    async def list_keys(self, tenant: str, limit: int, cursor: str | None = None) -> tuple[list[KeyInfo], str | None]:
        """A page of the keys that are not revoked, without secrets, and the cursor of the next one."""
        return await self._database.read(lambda conn: keys.page(conn, tenant, limit, cursor))

    async def revoke_key(self, tenant: str, key_id: str, *, may_revoke_admins: bool = True, by: Actor = NOBODY) -> None:
        """Raises KeyNotFound, Forbidden for an admin's key, or Conflict for the last one that still holds."""

        async def change(write: Write) -> None:
            await keys.revoke(write, tenant, key_id, may_revoke_admins)
            await write.record(tenant, by, "key.revoke", key_id)

        await self._write(change, self._grants.clear)


async def _create_key(
    write: Write,
    tenant: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
    adapters: Iterable[str],
    name: str | None,
    by: Actor,
) -> KeyInfo:
    made = await keys.create(write, tenant, scopes, expires_at, adapters, name)
    after = made.model_dump(mode="json", include={"name", "scopes", "expires_at", "adapters"})
    await write.record(tenant, by, "key.create", made.id, after=after)
    return made
