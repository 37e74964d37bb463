"""The alias desk: promotion, canaries, rollback and gates. The rules are in `registry/aliases.py` and `gates.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefixrack.types import AliasInfo, GatesInfo
from prefixrack_server.registry import aliases, gates, versions
from prefixrack_server.registry.aliases import Target
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.names import check_name
from prefixrack_server.registry.principal import NOBODY, Actor
from prefixrack_server.registry.transactions import Conn


class AliasDesk(Desk):
    async def get_alias(self, tenant: str, name: str, alias: str) -> AliasInfo:
        check_name(name)
        return await self._database.read(lambda conn: aliases.get(conn, tenant, name, alias))

    async def list_aliases(self, tenant: str, name: str) -> list[AliasInfo]:
        check_name(name)
        return await self._database.read(lambda conn: aliases.every(conn, tenant, name))

    async def put_alias(
        self,
        tenant: str,
        name: str,
        alias: str,
        target: int | Target,
        if_match: str | None = None,
        *,
        if_none_match: str | None = None,
        require: Sequence[str] = (),
        by: Actor = NOBODY,
    ) -> AliasInfo:
        """Promotion. An alias that exists moves only with its entity tag, or `*`, in `if_match`.

        `target` is a version, or one with a canary or a shadow. `require`, and what the alias' gates ask for, is
        checked against the version's claimed metrics. Raises InvalidName, AdapterNotFound, VersionNotFound,
        PreconditionRequired, PreconditionFailed, RequirementNotMet or InvalidRequest.
        """
        check_name(name)

        async def change(write: Write) -> AliasInfo:
            wanted = Target(target) if isinstance(target, int) else target
            before = await aliases.standing(write.conn, tenant, name, alias)
            moved = await aliases.put(write, tenant, name, alias, wanted, if_match, if_none_match, require)
            changed = {"before": before and _stand_of(before), "after": _stand_of(moved)}
            await write.record(tenant, by, "alias.put", f"{name}@{alias}", **changed)
            return moved

        return await self._change(tenant, name, change)

    async def roll_back(
        self, tenant: str, name: str, alias: str, if_match: str | None = None, *, by: Actor = NOBODY
    ) -> AliasInfo:
        """Take an alias' canary away, or where there is none, return to the version before, in one call.

        Raises AdapterNotFound, AliasNotFound or PreconditionFailed.
        """
        check_name(name)

        async def change(write: Write) -> AliasInfo:
            before = await aliases.standing(write.conn, tenant, name, alias)
            moved = await aliases.roll_back(write, tenant, name, alias, if_match)
            changed = {"before": before and _stand_of(before), "after": _stand_of(moved)}
            await write.record(tenant, by, "alias.rollback", f"{name}@{alias}", **changed)
            return moved

        return await self._change(tenant, name, change)

    async def get_gates(self, tenant: str, name: str, alias: str) -> GatesInfo:
        """What each promotion of the alias must show; nothing where it is not protected. Raises AdapterNotFound."""
        check_name(name)

        async def look_up(conn: Conn) -> GatesInfo:
            await versions.latest_number(conn, tenant, name)
            return GatesInfo(name=name, alias=alias, require=await gates.get(conn, tenant, name, alias))

        return await self._database.read(look_up)

    async def put_gates(
        self, tenant: str, name: str, alias: str, require: Sequence[str], *, by: Actor = NOBODY
    ) -> GatesInfo:
        """Protect an alias, or with no requirement stop protecting it.

        Raises InvalidName, InvalidRequest or AdapterNotFound.
        """
        check_name(name)

        async def change(write: Write) -> None:
            before = await gates.get(write.conn, tenant, name, alias)
            await gates.put(write, tenant, name, alias, require)
            await write.record(tenant, by, "alias.gates", f"{name}@{alias}", before=before, after=list(require))

        await self._change(tenant, name, change)
        return GatesInfo(name=name, alias=alias, require=list(require))

    async def delete_alias(
        self, tenant: str, name: str, alias: str, if_match: str | None = None, *, by: Actor = NOBODY
    ) -> None:
        check_name(name)

        async def change(write: Write) -> None:
            removed = await aliases.remove(write, tenant, name, alias, if_match)
            await write.record(tenant, by, "alias.delete", f"{name}@{alias}", before=_stand_of(removed))

        await self._change(tenant, name, change)


def _stand_of(alias: AliasInfo) -> dict[str, Any]:
    """What the audit log keeps of an alias."""
    return alias.model_dump(mode="json", exclude_none=True, include={"version", "canary", "shadow_version"})
