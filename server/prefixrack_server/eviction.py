"""Which adapter goes when room is needed. Knows tenants and sizes; no adapters, and no pins.

Not thread-safe: a caller holds one lock around every call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# What nobody used for so long goes first, whoever's it is: the room of tenants who left is for those who came.
UNUSED_S: Final = 300.0

K = TypeVar("K")


class EvictionOrder(Generic[K]):
    """Least recently used first, but within tenants where one holds more than its share.

    A share is an equal part of the budget for every tenant that holds something. The order: what was not used for
    `UNUSED_S`; then the least recently used of the tenant with most above its share; then that of all.
    """

    def __init__(self, budget_bytes: int, clock: Callable[[], float]) -> None:
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._held_bytes: dict[str, int] = {}
        self._idle: dict[str, OrderedDict[K, float]] = {}
        self._tenants: dict[K, str] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tenants

    def count(self, tenant: str, size_bytes: int) -> None:
        """The tenant holds so much more, or less, idle or not."""
        held = self._held_bytes.get(tenant, 0) + size_bytes
        if held:
            self._held_bytes[tenant] = held
        else:
            self._held_bytes.pop(tenant, None)

    def add(self, key: K, tenant: str) -> None:
        """It may be evicted, and was used by this tenant just now."""
        self.discard(key)
        self._tenants[key] = tenant
        self._idle.setdefault(tenant, OrderedDict())[key] = self._clock()

    def discard(self, key: K) -> None:
        tenant = self._tenants.pop(key, None)
        if tenant is None:
            return
        del self._idle[tenant][key]
        if not self._idle[tenant]:
            del self._idle[tenant]

    def first(self) -> K | None:
        """What to evict; None where nothing may be."""
        if not self._idle:
            return None
        oldest = min(self._idle, key=self._last_use)
        is_unused = self._clock() - self._last_use(oldest) >= UNUSED_S
        tenant = oldest if is_unused else self._above_share() or oldest
        return next(iter(self._idle[tenant]))

    def _above_share(self) -> str | None:
        largest = max(self._idle, key=self._held)
        is_above = self._held(largest) * len(self._held_bytes) > self._budget_bytes
        return largest if is_above else None

    def _held(self, tenant: str) -> int:
        return self._held_bytes.get(tenant, 0)

    def _last_use(self, tenant: str) -> float:
        return next(iter(self._idle[tenant].values()))
