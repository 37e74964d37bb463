"""The desk at the door: who holds a key or a token, remembered for a few seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from prefixrack.errors import RegistryUnavailable
from prefixrack_server.registry import keys
from prefixrack_server.registry.desks.desk import Desk, TimedGrant
from prefixrack_server.registry.principal import Principal, TokenClaims

GRANT_LIFE_S: Final = 5.0  # of a remembered key, should nobody call `refresh`

Verify = Callable[[str], Awaitable[TokenClaims]]


class DoorDesk(Desk):
    async def authenticate(self, secret: str) -> Principal:
        """Who holds this key. Raises InvalidKey if it is unknown, revoked or expired.

        Answers are remembered for a few seconds under the key's sha256, until the revision changes; and as long as the
        database does not answer, for nobody can revoke a key then.
        """

        async def find() -> Principal:
            return await self._database.read(lambda conn: keys.find_principal(conn, secret))

        return await self._admit(keys.key_sha256(secret), find)

    async def authenticate_token(self, token: str, verify: Verify) -> Principal:
        """Who a signed token speaks for; remembered as a key is. Raises what `verify` does, and TenantDisabled."""

        async def find() -> Principal:
            claims = await verify(token)
            return await self._database.read(lambda conn: keys.token_principal(conn, claims))

        return await self._admit(hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest(), find)

    async def _admit(self, sha256: str, find: Callable[[], Awaitable[Principal]]) -> Principal:
        self._see_changes()
        known = self._grants.get(sha256)
        if known is None or self._timer() - known.known_at > GRANT_LIFE_S:
            known = await self._find_grant(sha256, find)
        return keys.check_unexpired(known.principal, self._database.now())

    async def _find_grant(self, sha256: str, find: Callable[[], Awaitable[Principal]]) -> TimedGrant:
        asked_at, known_at = self._grants.moment, self._timer()
        try:
            found = TimedGrant(await find(), known_at)
        except RegistryUnavailable:
            last_known = self._grants.last_known(sha256)
            if last_known is None:
                raise
            return last_known
        self._grants.put(asked_at, sha256, found)
        return found
