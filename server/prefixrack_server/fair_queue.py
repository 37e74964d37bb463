"""Whose turn it is: ready rows by tenant, each tenant's by priority. Knows tokens and weights, no clock.

Tenants are served in proportion to their weights by virtual token counters (Sheng et al., "Fairness in Serving Large
Language Models", arXiv 2401.00588): the tenant that was given least comes first, and one that becomes active is lifted
to where the others are, but for a burst, so that nobody saves up for a flood by being idle.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Final, NamedTuple, TypeVar

from prefixrack_server.queued_row import QueuedRow, TenantQueue

# A row that does not fit the rest of a pack is passed over; this many at most, so that a pack costs no more than that.
MAX_PASSED_OVER: Final = 64
# A row that has waited longer than this has its turn whatever its priority: one such row in so many of its tenant's.
AGED_AFTER_S: Final = 1.0
AGED_EVERY: Final = 8
# So many tokens, by its weight, a tenant may be behind the others when it becomes active, however long it was idle: one
# within its share sends in bursts, and beside a flood each of them would wait as if the tenant always sent as much.
BURST_TOKENS: Final = 2048
# A heap is rebuilt without its dead entries once they outnumber the live ones by more than this.
COMPACT_SLACK: Final = 64
# Tenants that have nothing queued are remembered while they were given more than the others: looked through when these
# are so many, or twice those that had to stay the last time.
MIN_REMEMBERED: Final = 64

K = TypeVar("K", int, float)


class Standing(NamedTuple):
    """What a tenant has queued, and its share of engine and queue beside the others who have something queued."""

    num_rows: int
    num_tokens: int
    share: float
    is_alone: bool


class FairQueue:
    """Not thread-safe. A row costs O(log rows + log tenants), whatever the number of either."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantQueue] = {}
        # By counter; an entry whose counter has moved on is put right when it comes to the front.
        self._turns: list[tuple[float, int, TenantQueue]] = []
        self._numbers = itertools.count()
        self._passed_over: list[tuple[int, int, QueuedRow]] = []
        self._opener: QueuedRow | None = None
        self._now = 0.0  # virtual time: the counter of the tenant that was last served, before that row
        self._latest = 0.0  # the highest counter that any tenant has come to
        self._num_remembered = MIN_REMEMBERED
        self.num_ready = 0
        self.num_tenants = 0
        self.total_weight = 0.0

    def queue_of(self, tenant: str, weight: float) -> TenantQueue:
        """Its weight is from now on what its newest row says."""
        queue = self._tenants.get(tenant)
        if queue is None:
            self._forget_settled()
            queue = self._tenants[tenant] = TenantQueue(tenant, weight)
        elif queue.weight != weight:
            self.total_weight += weight - queue.weight if queue.num_rows else 0.0
            queue.weight = weight
        return queue

    def enter(self, queued: QueuedRow) -> None:
        """Count a row that is queued, whether or not it is ready yet."""
        queue, priority = queued.queue, queued.work.priority
        if not queue.num_rows:
            self.num_tenants += 1
            self.total_weight += queue.weight
        queue.num_rows += 1
        queue.num_tokens += queued.num_tokens
        queue.tokens_at[priority] = queue.tokens_at.get(priority, 0) + queued.num_tokens

    def add(self, queued: QueuedRow) -> None:
        """A row that was entered is ready."""
        queue = queued.queue
        queued.is_ready = True
        if not queue.num_ready:
            queue.counter = max(queue.counter, self._start)
        queue.num_ready += 1
        self.num_ready += 1
        heapq.heappush(queue.by_priority, (queued.work.priority, queued.order, queued))
        heapq.heappush(queue.by_age, (queued.order, queued.order, queued))
        self._give_turn(queue)

    def leave(self, queued: QueuedRow) -> None:
        """A row that was entered is not queued any more, however that came about."""
        queue = queued.queue
        queued.is_live = False
        queue.num_rows -= 1
        queue.num_tokens -= queued.num_tokens
        queue.tokens_at[queued.work.priority] -= queued.num_tokens
        if queued.is_ready:
            queue.num_ready -= 1
            self.num_ready -= 1
            if len(queue.by_age) > 2 * queue.num_ready + COMPACT_SLACK:
                queue.by_age = compacted(queue.by_age)
            if len(queue.by_priority) > 2 * queue.num_ready + COMPACT_SLACK:
                queue.by_priority = compacted(queue.by_priority)
        if not queue.num_rows:
            queue.tokens_at.clear()
            self.num_tenants -= 1
            self.total_weight = self.total_weight - queue.weight if self.num_tenants else 0.0

    def standing(self, tenant: str, weight: float) -> Standing:
        """Where a tenant stands that wants to queue more, whether or not it has something queued."""
        queue = self._tenants.get(tenant)
        num_rows, num_tokens = (queue.num_rows, queue.num_tokens) if queue is not None else (0, 0)
        others = self.total_weight - (queue.weight if queue is not None and num_rows else 0.0)
        is_alone = self.num_tenants == (1 if num_rows else 0)
        return Standing(num_rows, num_tokens, 1.0 if is_alone else weight / (weight + others), is_alone)

    def tokens_ahead(self, tenant: str, weight: float, priority: int, num_tokens: int) -> float:
        """How many of `num_tokens`, all that are queued, are computed before a new row of this tenant, if everybody who
        has some goes on wanting its part."""
        queue = self._tenants.get(tenant)
        at = {} if queue is None else queue.tokens_at
        mine = sum(tokens for other, tokens in at.items() if other <= priority)
        later = sum(tokens for other, tokens in at.items() if other > priority)
        return min(mine / self.standing(tenant, weight).share, num_tokens - later)

    def serve(self, now: float, room: int | None) -> QueuedRow | None:
        """The next row of a pack with `room` for so many tokens, charged to its tenant; it is the caller's to `leave`.

        None for room means an empty pack, which any row may open: first one that was passed over before.
        """
        queued = self._next(now, room)
        if queued is not None:
            queue = queued.queue
            queue.counter += queued.num_tokens / queue.weight
            self._latest = max(self._latest, queue.counter)
        return queued

    def end_pack(self) -> None:
        """Put back what was passed over. Where nothing is left, nobody waited for another: all start level again."""
        for entry in self._passed_over:
            queue = entry[2].queue
            heapq.heappush(queue.by_priority, entry)
            self._give_turn(queue)
        self._passed_over.clear()
        if not self.num_ready:
            self._now = self._latest + BURST_TOKENS

    def _next(self, now: float, room: int | None) -> QueuedRow | None:
        if room is None and self._opener is not None:
            opener, self._opener = self._opener, None
            if opener.is_live:
                return opener
        while len(self._passed_over) < MAX_PASSED_OVER:
            queue = self._first()
            if queue is None:
                return None
            queued = _aged(queue, now, room) if queue.num_since_aged >= AGED_EVERY else None
            queued = queued or self._by_priority(queue, room)
            if queued is not None:
                self._now = max(self._now, queue.counter)
                return queued
        return None

    def _first(self) -> TenantQueue | None:
        """The tenant that was given least of those with rows."""
        while self._turns:
            counter, _, queue = self._turns[0]
            heap = queue.by_priority
            while heap and not heap[0][2].is_live:
                heapq.heappop(heap)
            if not heap:
                heapq.heappop(self._turns)
                queue.has_turn = False
            elif counter != queue.counter:
                heapq.heapreplace(self._turns, (queue.counter, next(self._numbers), queue))
            else:
                return queue
        return None

    def _by_priority(self, queue: TenantQueue, room: int | None) -> QueuedRow | None:
        """The most urgent row, where it fits."""
        entry = heapq.heappop(queue.by_priority)
        queued = entry[2]
        if room is None or queued.num_tokens <= room:
            queue.num_since_aged += 1
            return queued
        self._passed_over.append(entry)
        self._opener = self._opener or queued
        return None

    @property
    def _start(self) -> float:
        """Where a tenant starts that was idle for long."""
        return self._now - BURST_TOKENS

    def _give_turn(self, queue: TenantQueue) -> None:
        if not queue.has_turn:
            queue.has_turn = True
            heapq.heappush(self._turns, (queue.counter, next(self._numbers), queue))

    def _forget_settled(self) -> None:
        """Idle tenants that would be lifted to the others anyway."""
        if len(self._tenants) < self._num_remembered:
            return
        self._tenants = {
            name: queue for name, queue in self._tenants.items() if queue.num_rows or queue.counter > self._start
        }
        self._num_remembered = max(MIN_REMEMBERED, 2 * len(self._tenants))


def _aged(queue: TenantQueue, now: float, room: int | None) -> QueuedRow | None:
    """The oldest row, if it has waited too long and fits."""
    heap = queue.by_age
    while not heap[0][2].is_live:  # it has ready rows, so it ends
        heapq.heappop(heap)
    queued = heap[0][2]
    if now - queued.queued_at < AGED_AFTER_S or (room is not None and queued.num_tokens > room):
        return None
    queue.num_since_aged = 0
    return queued


def compacted(heap: list[tuple[K, int, QueuedRow]]) -> list[tuple[K, int, QueuedRow]]:
    """A copy without the dead entries. Made once those are the many, it costs O(1) per row over time."""
    live = [entry for entry in heap if entry[2].is_live]
    heapq.heapify(live)
    return live
