"""Admission: whether a request may join the engine's queue, and when to come again. Knows tenants, tokens and time.

It is the engine's, which alone sees what all front ends have queued. Not thread-safe: its caller holds the lock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from prefixrack.errors import QueueShareExceeded, ServerOverloaded
from prefixrack_server.messages import RowFailure, RowWork
from prefixrack_server.scheduler import Scheduler

# How much computing the measured speed remembers, in seconds.
MEMORY_S: Final = 5.0
# Retry-After where the speed is not known yet.
UNKNOWN_RETRY_S: Final = 1.0
# Where several tenants share the engine, a pack is filled up to so much time at most: a row waits for the pack before
# it too, and who floods would make all of them as large as they may be.
SHARED_PACK_S: Final = 0.05
MIN_SHARED_TOKENS: Final = 64
# A row that comes waits for the pack under way, deep queue or not: such packs take no longer than this either.
DEEP_PACK_S: Final = 0.25
USUAL_SHARED_TOKENS: Final = 512  # until the speed is known


class QueueLimits(NamedTuple):
    """What the queue may hold. A tenant with less than its share of it may join beyond."""

    rows: float = math.inf
    tokens: float = math.inf


class Speed:
    """Tokens per second with which a queue is worked off: those of packs that left rows waiting, which were as large as
    they may be. Packs of an idle server are slower by the token; one that is faster all the same shows that the speed
    is higher by now, though no queue may form because of what is refused."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def tokens_per_s(self) -> float:
        """0 as long as it is not known."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def note(self, num_tokens: int, seconds: float, *, is_full: bool = True) -> None:
        """A pack."""
        seconds = max(seconds, 1e-6)
        if not is_full and num_tokens <= self.tokens_per_s * seconds:
            return
        kept = math.exp(-seconds / MEMORY_S)
        self._tokens = self._tokens * kept + num_tokens
        self._seconds = self._seconds * kept + seconds


class Admission:
    """Lives as long as the engine."""

    def __init__(
        self, scheduler: Scheduler, limits: QueueLimits, shared_tokens: float = math.inf, deep_tokens: float = 0
    ) -> None:
        """What packs of a shared engine, and of a deep queue, are filled up to if that is computed in time."""
        self._scheduler = scheduler
        self._limits = limits
        self._shared_tokens = shared_tokens
        self.deep_tokens = deep_tokens  # may change between packs
        self.speed = Speed()
        self._size_packs()
        self._busy_until = 0.0
        self._tokens_under_way = 0

    def begin(self, num_tokens: int, now: float) -> None:
        """A pack of so many tokens begins, or waits for the one before it."""
        self._tokens_under_way += num_tokens
        if self.speed.tokens_per_s:
            self._busy_until = max(self._busy_until, now) + num_tokens / self.speed.tokens_per_s

    def end(self, num_tokens: int, seconds: float, now: float, *, is_full: bool) -> None:
        """A pack is computed: what is left to wait for is the others that have begun."""
        if is_full or self.speed.tokens_per_s:
            self.speed.note(num_tokens, seconds, is_full=is_full)
            self._size_packs()
        self._tokens_under_way -= num_tokens
        speed = self.speed.tokens_per_s
        self._busy_until = now + (self._tokens_under_way / speed if speed else 0.0)

    def refusal(self, request: Sequence[RowWork], now: float) -> RowFailure | None:
        """Why these rows of one request may not join the queue; None where they may. An empty queue takes anything."""
        if not self._scheduler.num_rows:
            return None
        return self._too_late(request[0], now) or self._too_full(request)

    def _size_packs(self) -> None:
        speed = self.speed.tokens_per_s
        in_time = SHARED_PACK_S * speed if speed else USUAL_SHARED_TOKENS
        self._scheduler.shared_pack_tokens = int(min(self._shared_tokens, max(MIN_SHARED_TOKENS, in_time)))
        self._scheduler.deep_pack_tokens = int(min(self.deep_tokens, DEEP_PACK_S * speed))

    def _too_late(self, first: RowWork, now: float) -> RowFailure | None:
        """The queue before the request takes longer than the request has time."""
        speed = self.speed.tokens_per_s
        if first.deadline is None or not speed or now >= first.deadline:
            return None  # a deadline that is over is the scheduler's to tell
        ahead = self._scheduler.tokens_ahead(first.tenant, first.weight, first.priority)
        if not ahead:
            return None
        pack_s = max(0.0, self._busy_until - now)
        wait_s, left_s = pack_s + (ahead + self._scheduler.pack_tokens(now)) / speed, first.deadline - now
        if wait_s <= left_s:
            return None
        return RowFailure(
            ServerOverloaded.code,
            f"the queue takes about {wait_s:.2f} s, the request has {left_s:.2f} s left: try again later, or "
            "allow more by X-Request-Timeout-Ms",
            retry_after_s=wait_s - left_s,
        )

    def _too_full(self, request: Sequence[RowWork]) -> RowFailure | None:
        num_rows, num_tokens = len(request), sum(len(work.row) for work in request)
        queue = self._scheduler
        if self._fits(queue.num_rows + num_rows, queue.num_tokens + num_tokens, 1.0):
            return None
        standing = queue.standing(request[0].tenant, request[0].weight)
        if self._fits(standing.num_rows + num_rows, standing.num_tokens + num_tokens, standing.share):
            return None
        if standing.is_alone:
            return self._server_full(num_rows, num_tokens)
        excess = standing.num_tokens + num_tokens - standing.share * self._limits.tokens
        return RowFailure(
            QueueShareExceeded.code,
            f"the queue is full and your tenant has {standing.num_rows} rows with {standing.num_tokens} tokens "
            f"of it, more than its share of {standing.share:.0%}: send less at once, or try again later",
            retry_after_s=self._seconds(excess, standing.share),
        )

    def _server_full(self, num_rows: int, num_tokens: int) -> RowFailure:
        queue, limits = self._scheduler, self._limits
        return RowFailure(
            ServerOverloaded.code,
            f"{queue.num_rows} rows with {queue.num_tokens} tokens are waiting, allowed are {limits.rows} rows and "
            f"{limits.tokens} tokens: try again later",
            retry_after_s=self._seconds(queue.num_tokens + num_tokens - limits.tokens, 1.0),
        )

    def _fits(self, num_rows: int, num_tokens: int, share: float) -> bool:
        return num_rows <= share * self._limits.rows and num_tokens <= share * self._limits.tokens

    def _seconds(self, num_tokens: float, share: float) -> float:
        """How long a tenant with this share of the engine waits until so many tokens are computed."""
        return retry_seconds(num_tokens, self.speed.tokens_per_s * share)


def retry_seconds(num_tokens: float, tokens_per_s: float) -> float:
    """Of so many tokens at this speed, which is 0 where it is not known yet."""
    return max(num_tokens, 0.0) / tokens_per_s if tokens_per_s else UNKNOWN_RETRY_S
