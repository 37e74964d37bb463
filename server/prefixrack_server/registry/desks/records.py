"""The records desk: the audit log, and what each tenant had computed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from prefixrack.types import AuditLine, UsageLine
from prefixrack_server.registry import audit, usage
from prefixrack_server.registry.desks.desk import Desk


class RecordsDesk(Desk):
    async def list_audit(
        self,
        tenant: str,
        limit: int,
        cursor: str | None = None,
        action: str | None = None,
        adapter: str | None = None,
        names_every_key: bool = False,
    ) -> tuple[list[AuditLine], str | None]:
        """A page of the audit log, newest first, and the cursor of the next one."""
        return await self._database.read(
            lambda conn: audit.page(conn, tenant, limit, cursor, action, adapter, names_every_key)
        )

    async def add_usage(self, lines: Sequence[UsageLine]) -> None:
        """Add to what tenants had computed. No change of the registry: nobody's remembered answers are forgotten."""
        await self._database.append(lambda conn: usage.add(conn, lines))

    async def list_usage(
        self, tenant: str, since: date | None, until: date | None, limit: int, cursor: str | None = None
    ) -> tuple[list[UsageLine], str | None]:
        """A page by day and adapter, and the cursor of the next one."""
        return await self._database.read(lambda conn: usage.page(conn, tenant, since, until, limit, cursor))
