"""The routing desk: which version a reference means, without I/O for what was asked before."""

from __future__ import annotations

from prefixrack.errors import RegistryUnavailable
from prefixrack_server.registry import rollouts
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.names import parse_ref
from prefixrack_server.registry.rollouts import Route, Running
from prefixrack_server.registry.versions import Version


class RoutingDesk(Desk):
    async def resolve(self, tenant: str, ref: str) -> Version:
        """The version that `name`, `name@alias` or `name@7` means now, whatever canary it has. Raises as `route`."""
        return (await self.route(tenant, ref)).version

    async def route(self, tenant: str, ref: str) -> Route:
        """Where requests for `name`, `name@alias` or `name@7` go now. Without I/O for what was asked before.

        As long as the database does not answer, what it meant the last time. Raises InvalidName, AdapterNotFound,
        VersionNotFound, AliasNotFound or RegistryUnavailable.
        """
        self._see_changes()
        known = self._routes.get((tenant, ref))
        if known is not None:
            return known
        try:
            return await self._find(tenant, ref)
        except RegistryUnavailable:
            last_known = self._routes.last_known((tenant, ref))
            if last_known is None:
                raise
            return last_known

    async def running_rollouts(self) -> set[Running]:
        """Every version in an alias' canary or shadow now. Raises RegistryUnavailable."""
        return await self._database.read(rollouts.running)

    async def _find(self, tenant: str, ref: str) -> Route:
        parsed = parse_ref(ref)
        asked_at = self._routes.moment
        route = await self._database.read(lambda conn: rollouts.find(conn, tenant, parsed))
        self._routes.put(asked_at, (tenant, ref), route)
        return route
