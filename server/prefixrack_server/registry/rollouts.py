"""The rollouts: which version of an alias answers a request, where it has two. Knows SQL only to find them.

A canary answers a share of the requests, the same callers always: a key's place between 0 and 1 is a hash of the key
and the alias, so whoever is in a share of 5 % is in one of 10 % too, and other callers are in that of another alias.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from sqlalchemy import and_, or_, select

from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.names import LATEST, PRODUCTION, Ref
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.registry.versions import Version

Role = Literal["stable", "canary", "shadow"]
PLACES: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Rollout:
    """What an alias has beside its version. `shadow` computes what is asked of the others, and answers nobody."""

    alias: str
    canary: Version | None
    share: float
    shadow: Version | None


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests for a reference go."""

    version: Version
    rollout: Rollout | None = None

    def choose(self, key: str | None) -> tuple[Version, Role]:
        """The version for a caller; without a key, by chance."""
        rollout = self.rollout
        if rollout is None or rollout.canary is None:
            return self.version, "stable"
        place = random.random() if key is None else self._place(rollout, key)
        return (rollout.canary, "canary") if place < rollout.share else (self.version, "stable")

    def _place(self, rollout: Rollout, key: str) -> float:
        version = self.version
        salted = "\0".join((version.tenant, version.name, rollout.alias, key)).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(salted).digest()[:8]) / PLACES


class Running(NamedTuple):
    """A version that takes part in a rollout, under the names that metrics know it by."""

    tenant: str
    adapter: str
    alias: str
    version: str
    role: str


async def find(conn: Conn, tenant: str, ref: Ref) -> Route:
    """Raises AdapterNotFound, VersionNotFound or AliasNotFound."""
    version = await versions.find(conn, tenant, ref)
    if ref.number is not None or ref.alias == LATEST:
        return Route(version)
    table, alias = tables.aliases, ref.alias or PRODUCTION
    chosen = select(table.c.canary_number, table.c.canary_share, table.c.shadow_number).where(
        and_(versions.of_adapter(table, tenant, ref.name), table.c.alias == alias)
    )
    row = (await conn.execute(chosen)).first()
    if row is None or (row.canary_number is None and row.shadow_number is None):
        return Route(version)
    canary = await _get(conn, tenant, ref.name, row.canary_number)
    shadow = await _get(conn, tenant, ref.name, row.shadow_number)
    return Route(version, Rollout(alias, canary, row.canary_share or 0.0, shadow))


async def running(conn: Conn) -> set[Running]:
    """Of all tenants."""
    table = tables.aliases
    has_more = or_(table.c.canary_number.is_not(None), table.c.shadow_number.is_not(None))
    numbers = {"stable": table.c.number, "canary": table.c.canary_number, "shadow": table.c.shadow_number}
    chosen = select(table.c.tenant, table.c.name, table.c.alias, *numbers.values()).where(has_more)
    return {
        Running(row.tenant, row.name, row.alias, str(number), role)
        for row in await conn.execute(chosen)
        for role, column in numbers.items()
        if (number := row._mapping[column]) is not None
    }


async def _get(conn: Conn, tenant: str, name: str, number: int | None) -> Version | None:
    return None if number is None else await versions.get(conn, tenant, name, number)
