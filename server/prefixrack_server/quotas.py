"""The quotas: how many requests and tokens of a tenant are computed in a minute. Knows no SQL, and of HTTP two headers.

Counted by a sliding window counter (`limits` has it as a strategy of that name): this minute's count, and the last
minute's as far as it still lies within the sixty seconds before now.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import structlog
from limits.aio.storage import RedisStorage
from limits.errors import ConfigurationError, StorageError

from prefixrack import errors
from prefixrack_server.config import ConfigError, QuotasConfig
from prefixrack_server.registry.principal import Principal

WINDOW_S: Final = 60
# A fleet's storage that is slow or away must not hold requests up: it is asked again after a while.
FLEET_TIMEOUT_S: Final = 0.5
REST_S: Final = 5.0
KEY_PREFIX: Final = "prefixrack"

log = structlog.stdlib.get_logger("prefixrack.quotas")


class WindowStorage(Protocol):
    """What of a storage of `limits` the sliding window counter needs."""

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool: ...

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How a tenant stands with one of its quotas: `unit` is "requests" or "tokens"."""

    unit: str
    quota: int
    remaining: int
    reset_s: int


class Window(NamedTuple):
    """What is counted of one quota now; seconds are those until the counts are gone."""

    previous: int
    previous_s: float
    current: int
    current_s: float

    def remaining(self, quota: int) -> int:
        weighted = self.previous * self.previous_s / WINDOW_S + self.current
        return max(0, quota - math.floor(weighted))

    def reset_s(self, quota: int) -> float:
        """Seconds until more remains: until the current window ends, and where nothing is left, until one fits."""
        ends_s = max(0.0, self.current_s - WINDOW_S)
        return ends_s if self.remaining(quota) or not quota else max(ends_s, self.wait_s(quota, 1))

    def wait_s(self, quota: int, amount: int) -> float:
        """Seconds until `amount` fits, if nothing else is taken meanwhile; it must not be more than the quota."""
        free = quota - amount - self.current
        if free >= 0:
            return 0.0 if not self.previous else max(0.0, self.previous_s - free * WINDOW_S / self.previous)
        # The current window has to become the previous one first, and then to fade.
        left_s = max(0.0, self.current_s - WINDOW_S)
        return left_s + max(0.0, WINDOW_S - (quota - amount) * WINDOW_S / self.current)


class QuotaMeter:
    """Lives as long as the process. `fleet` counts for all servers together, `own` for this one, when that is away."""

    def __init__(
        self, own: WindowStorage, fleet: WindowStorage | None = None, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._own = own
        self._fleet = fleet
        self._timer = timer
        self._rests_until = 0.0

    def allowance(self, principal: Principal) -> Allowance:
        return Allowance(self, principal)

    async def take(self, unit: str, tenant: str, quota: int, amount: int) -> tuple[bool, Window]:
        """Count `amount` if the quota has room for it, and say how it stands now."""
        key = f"{unit}/{tenant}"
        if self._fleet is not None and self._timer() >= self._rests_until:
            try:
                return await _take(self._fleet, key, quota, amount)
            except StorageError as error:
                self._rests_until = self._timer() + REST_S
                log.warning("the storage of quotas does not answer: this server counts alone", error=str(error))
        return await _take(self._own, key, quota, amount)

    async def close(self) -> None:
        if isinstance(self._fleet, RedisStorage):
            bridge: Any = self._fleet.bridge
            await bridge.storage.aclose()


async def _take(storage: WindowStorage, key: str, quota: int, amount: int) -> tuple[bool, Window]:
    is_taken = await storage.acquire_sliding_window_entry(key, quota, WINDOW_S, amount)
    return is_taken, Window(*await storage.get_sliding_window(key, WINDOW_S))


class Allowance:
    """What one request takes of its tenant's quotas, and what there is to tell its caller. Request life."""

    __slots__ = ("_meter", "_standings", "principal")

    def __init__(self, meter: QuotaMeter, principal: Principal) -> None:
        self._meter = meter
        self.principal = principal
        self._standings: dict[str, Standing] = {}

    @property
    def is_limited(self) -> bool:
        quotas = self.principal.quotas
        return quotas.requests_per_minute is not None or quotas.tokens_per_minute is not None

    async def take_request(self) -> None:
        """Raises RequestQuotaExceeded."""
        quota = self.principal.quotas.requests_per_minute
        if quota is not None:
            await self._take("requests", quota, 1, errors.RequestQuotaExceeded)

    async def take_tokens(self, num_tokens: int) -> None:
        """Raises TokenQuotaExceeded, or TooManyTokens where no waiting would help."""
        quota = self.principal.quotas.tokens_per_minute
        if quota is None or not num_tokens:
            return
        if num_tokens > quota:
            raise errors.TooManyTokens(
                f"the request makes {num_tokens} tokens, the tenant {self.principal.tenant!r} may have {quota} a "
                "minute: send fewer or shorter inputs, or ask an administrator for a larger quota"
            )
        await self._take("tokens", quota, num_tokens, errors.TokenQuotaExceeded)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """RateLimit-Policy and RateLimit, as draft-ietf-httpapi-ratelimit-headers-10 has them; none without quotas."""
        standings = self._standings.values()
        if not standings:
            return []
        policies = ", ".join(f'"{one.unit}";q={one.quota};w={WINDOW_S};qu="{one.unit}"' for one in standings)
        limits = ", ".join(f'"{one.unit}";r={one.remaining};t={one.reset_s}' for one in standings)
        return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", limits.encode())]

    async def _take(self, unit: str, quota: int, amount: int, fault: type[errors.RateLimited]) -> None:
        tenant = self.principal.tenant
        is_taken, window = await self._meter.take(unit, tenant, quota, amount)
        self._standings[unit] = Standing(unit, quota, window.remaining(quota), math.ceil(window.reset_s(quota)))
        if not is_taken:
            wait_s = window.wait_s(quota, amount) if amount <= quota else WINDOW_S
            raise fault(
                f"the tenant {tenant!r} may have {quota} {unit} a minute, {window.remaining(quota)} are left and this "
                f"needs {amount}: try again in {math.ceil(wait_s)} s, or ask an administrator for a larger quota",
                retry_after_s=wait_s,
            )


def fleet_storage(config: QuotasConfig) -> WindowStorage | None:
    """The Redis that all servers count in, None where there is none. Raises ConfigError."""
    if config.redis_url is None:
        return None
    try:
        return RedisStorage(
            f"async+{config.redis_url.get_secret_value()}",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=KEY_PREFIX,
            socket_timeout=FLEET_TIMEOUT_S,
            socket_connect_timeout=FLEET_TIMEOUT_S,
        )
    except ConfigurationError:
        raise ConfigError("setting quotas.redis_url needs the package redis: pip install 'prefixrack[redis]'") from None
