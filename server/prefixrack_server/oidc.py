"""OpenID Connect: a signed token to who it speaks for. Knows no route and no database.

Keys of the issuer are fetched when they are first needed, again now and then, and when a token names one that is not
known yet. Only listed algorithms are tried, all of them asymmetric: whoever can read the issuer's keys cannot sign.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.to_thread
import jwt
import structlog
from jwt import PyJWKClient
from jwt.exceptions import PyJWKClientConnectionError, PyJWKClientError, PyJWTError

from prefixrack.errors import InvalidToken, NotReady
from prefixrack_server.config import OidcConfig
from prefixrack_server.registry.keys import SCOPES
from prefixrack_server.registry.principal import TokenClaims

MAX_TOKEN_CHARS: Final = 16_384
ACTOR_PREFIX: Final = "oidc:"  # no key's id has a colon
REFRESH_S: Final = 300.0
KEYS_LAST_S: Final = 86_400.0  # when no refresh succeeds: an issuer that is away must not stop everything
UNKNOWN_KEY_PAUSE_S: Final = 30.0
FAILURE_PAUSE_S: Final = 5.0
FETCH_TIMEOUT_S: Final = 5.0
NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
NUM_THREADS: Final = 2  # of their own: an issuer that hangs must not take those of everybody
# What needs no mapping: whoever names roles at the issuer must say here which of them administrate.
PLAIN_SCOPES: Final = SCOPES - {"tenant:admin", "admin"}

_SUBJECT: Final = re.compile(r"[!-~]{1,59}")

log = structlog.stdlib.get_logger("prefixrack.oidc")


def is_token(secret: str) -> bool:
    """Whether this looks like a signed token; an API key has no dots."""
    return secret.count(".") == 2


class IssuerKeys(PyJWKClient):
    """The library's cache. What it would try again for each token after a failure is tried again after a pause."""

    def __init__(self, url: str, timer: Callable[[], float]) -> None:
        super().__init__(url, lifespan=KEYS_LAST_S, timeout=FETCH_TIMEOUT_S, cooldown_duration=UNKNOWN_KEY_PAUSE_S)
        self._timer = timer
        self._rests_until = 0.0

    def fetch_data(self) -> Any:
        if self._timer() < self._rests_until:
            raise PyJWKClientConnectionError("the last attempt failed a moment ago")
        try:
            return super().fetch_data()
        except (PyJWTError, ValueError) as error:
            self._rests_until = self._timer() + FAILURE_PAUSE_S
            raise PyJWKClientConnectionError(str(error)) from error


class TokenVerifier:
    """Lives as long as the process. Verifying is done in a thread: it may have to fetch keys."""

    def __init__(self, config: OidcConfig, timer: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._keys = IssuerKeys(config.jwks_url or "", timer)
        self._limiter = anyio.CapacityLimiter(NUM_THREADS)

    async def verify(self, token: str) -> TokenClaims:
        """Raises InvalidToken, or NotReady while the issuer's keys cannot be had."""
        return await anyio.to_thread.run_sync(self._verify, token, limiter=self._limiter)

    async def refresh(self) -> None:
        """Forget keys that the issuer has withdrawn. The old ones stay where that fails."""
        try:
            await anyio.to_thread.run_sync(self._keys.get_jwk_set, True, limiter=self._limiter)
        except PyJWTError as error:
            log.warning("the keys of the issuer cannot be fetched", url=self._config.jwks_url, error=str(error))

    def _verify(self, token: str) -> TokenClaims:
        if len(token) > MAX_TOKEN_CHARS:
            raise InvalidToken(f"the token has {len(token)} characters, at most {MAX_TOKEN_CHARS} are allowed")
        try:
            key = self._keys.get_signing_key(_key_id(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=list(self._config.algorithms),
                audience=self._config.audience,
                issuer=self._config.issuer,
                leeway=self._config.leeway_s,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except PyJWKClientConnectionError as error:
            log.error("the keys of the issuer cannot be fetched", url=self._config.jwks_url, error=str(error))
            raise NotReady(
                "the keys of the token's issuer cannot be fetched: try again later", retry_after_s=FAILURE_PAUSE_S
            ) from None
        except PyJWKClientError:
            raise InvalidToken("the token is signed by a key that its issuer does not publish: get a new one") from None
        except (PyJWTError, OverflowError) as error:  # the second for a time that is infinite
            raise InvalidToken(f"the token is refused ({error}): get a new one from {self._config.issuer}") from None
        return self._speaks_for(claims)

    def _speaks_for(self, claims: Mapping[str, Any]) -> TokenClaims:
        expires = _moment(int(claims["exp"]) + self._config.leeway_s)
        return TokenClaims(_actor(claims["sub"]), self._tenant(claims), self._scopes(claims), expires)

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        seen = _claim(claims, self._config.tenant_claim)
        tenants = self._config.tenants
        tenant = tenants.get(seen) if tenants and isinstance(seen, str) else seen
        if not isinstance(tenant, str):
            raise InvalidToken(f"the token's claim {self._config.tenant_claim!r} names no tenant of this server")
        return tenant

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        seen = _claim(claims, self._config.scopes_claim)
        values = seen.split() if isinstance(seen, str) else seen if isinstance(seen, list) else []
        named = {value for value in values if isinstance(value, str)}
        if not self._config.scopes:
            return PLAIN_SCOPES & named
        return frozenset(scope for value in named for scope in self._config.scopes.get(value, ()))


def _key_id(token: str) -> str:
    key_id = jwt.get_unverified_header(token).get("kid")
    if not isinstance(key_id, str):
        raise InvalidToken("the token's header names no key (kid): get one that is signed by its issuer")
    return key_id


def _moment(timestamp: float) -> datetime:
    """Some issuers write a time that no calendar has where they mean never."""
    return datetime.fromtimestamp(min(timestamp, NEVER), UTC)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, or else that at the end of a path with dots: names may be addresses."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _actor(subject: Any) -> str:
    """How the audit log names the subject: as it is, or by its sha256 where it is long or has other signs."""
    text = str(subject)
    if _SUBJECT.fullmatch(text):
        return f"{ACTOR_PREFIX}{text}"
    return f"{ACTOR_PREFIX}{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"
