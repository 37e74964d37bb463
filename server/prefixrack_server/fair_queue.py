"""Whose turn it is: ready rows by tenant, each tenant's by priority. Knows tokens and weights, no clock.

Tenants are served in proportion to their weights by virtual token counters (Sheng et al., "Fairness in Serving Large
Language Models", arXiv 2401.00588): the tenant that was given least comes first, and one that becomes active is lifted
to where the others are, but for a burst, so that nobody saves up for a flood by being idle.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Final, NamedTuple

from prefixrack_server.messages import RowWork
from prefixrack_server.queued_row import Line, QueuedRow, TenantQueue

# A row that does not fit the rest of a pack is passed over; this many at most, so that a pack costs no more than that.
MAX_PASSED_OVER: Final = 64
# A pack is full when less than this part of it is free: looking for a row that fits would cost more than it brings.
FREE_PART: Final = 32
# A row that has waited longer than this has its turn whatever its priority: one such row in so many of its tenant's.
AGED_AFTER_S: Final = 1.0
AGED_EVERY: Final = 8
# So many tokens, by its weight, a tenant may be behind the others when it becomes active, however long it was idle: one
# within its share sends in bursts, and beside a flood each of them would wait as if the tenant always sent as much. Who
# has more than that queued is no such tenant: a flood would share level with the others until its counter is ahead.
BURST_TOKENS: Final = 2048
# A tenant's rows are kept without their dead entries once these outnumber the live ones by more than this.
COMPACT_SLACK: Final = 64
NUM_SOON: Final = 16
# Tenants that have nothing queued are remembered while they were given more than the others: looked through when these
# are so many, or twice those that had to stay the last time.
MIN_REMEMBERED: Final = 64


class Standing(NamedTuple):
    """What a tenant has queued, and its share of engine and queue beside the others who have something queued."""

    num_rows: int
    num_tokens: int
    share: float
    is_alone: bool


class PackLimits(NamedTuple):
    """What a pack may have. Who was given most and has more queued than that fills it up to `tokens`; the others, who
    wait for that one's packs, may go along up to `most_tokens`."""

    rows: int
    tokens: int
    most_tokens: int


class FairQueue:
    """Not thread-safe. A row costs O(log tenants), whatever the number of rows."""

    def __init__(self) -> None:
        self._tenants: dict[str, TenantQueue] = {}
        # By counter; an entry whose counter has moved on is put right when it comes to the front.
        self._turns: list[tuple[float, int, TenantQueue]] = []
        self._numbers = itertools.count()
        self._passed_over: list[QueuedRow] = []
        self._opener: QueuedRow | None = None
        self._now = 0.0  # virtual time: the counter of the tenant that was last served, before that row
        self._latest = 0.0  # the highest counter that any tenant has come to
        self._num_remembered = MIN_REMEMBERED
        self.num_ready = 0
        self.num_tenants = 0
        self.total_weight = 0.0

    def enter(self, work: RowWork, order: int, now: float) -> QueuedRow:
        """Count a row that is queued, ready or not yet. It says what its tenant's weight is from now on."""
        queue = self._queue_of(work.tenant, work.weight)
        queued = QueuedRow(work, order, now, queue)
        if not queue.num_rows:
            self.num_tenants += 1
            self.total_weight += queue.weight
        queue.num_rows += 1
        queue.num_tokens += queued.num_tokens
        queued.line.num_tokens += queued.num_tokens
        if queue.num_tokens > BURST_TOKENS * queue.weight:
            queue.counter = max(queue.counter, self._now)
        return queued

    def add(self, queued: QueuedRow) -> None:
        """A row that was entered is ready."""
        queue = queued.queue
        queued.is_ready = True
        if not queue.num_ready:
            queue.counter = max(queue.counter, self._start)
        queue.num_ready += 1
        self.num_ready += 1
        queued.line.add(queued)
        if not queue.has_turn:
            self._give_turn(queue)

    def leave(self, queued: QueuedRow) -> None:
        """A row that was entered is not queued any more, though it was not its turn."""
        queue = queued.queue
        self._subtract(queued)
        if queued.is_ready:
            self._bury(queue)

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
        lines = [] if queue is None else queue.lines
        mine = sum(line.num_tokens for line in lines if line.priority <= priority)
        later = sum(line.num_tokens for line in lines if line.priority > priority)
        return min(mine / self.standing(tenant, weight).share, num_tokens - later)

    def has_modest(self, num_tokens: int) -> bool:
        """Whether one of the tenants who have their turns soon has no more than that queued."""
        return any(queue.num_tokens <= num_tokens for _, _, queue in self._turns[:NUM_SOON] if queue.num_ready)

    def take(self, now: float, limits: PackLimits) -> list[QueuedRow]:
        """The rows of the next pack, charged to their tenants. Any row may open it: first one that was passed over.

        Where nothing is left afterwards, nobody waited for another, and all start level again.
        """
        pack = self._open_pack()
        used = sum(queued.num_tokens for queued in pack)
        most, enough = self._latest, limits.tokens // FREE_PART
        while len(pack) < limits.rows and len(self._passed_over) < MAX_PASSED_OVER:
            line = self._first_line()
            if line is None:
                break
            queue = line.queue
            is_modest = queue.counter < most or queue.num_tokens <= limits.most_tokens
            room = (limits.most_tokens if is_modest else limits.tokens) - used
            if pack and room <= enough:
                break  # those who come after it were given no less
            queued = self._next_of(line, now, room if pack else None)
            if queued is not None:
                self._serve(queued)
                pack.append(queued)
                used += queued.num_tokens
        self._end_pack()
        return pack

    def _queue_of(self, tenant: str, weight: float) -> TenantQueue:
        queue = self._tenants.get(tenant)
        if queue is None:
            self._forget_settled()
            queue = self._tenants[tenant] = TenantQueue(next(self._numbers), weight)
        elif queue.weight != weight:
            self.total_weight += weight - queue.weight if queue.num_rows else 0.0
            queue.weight = weight
        return queue

    def _open_pack(self) -> list[QueuedRow]:
        """With the row that the pack before had no room for, if it is still there."""
        opener, self._opener = self._opener, None
        if opener is None or not opener.is_live:
            return []
        self._serve(opener)
        self._bury(opener.queue)
        return [opener]

    def _first_line(self) -> Line | None:
        """The most urgent rows of the tenant that was given least."""
        turns = self._turns
        while turns:
            counter, number, queue = turns[0]
            if counter != queue.counter:
                heapq.heapreplace(turns, (queue.counter, number, queue))
                continue
            line = queue.first_line()
            if line is not None:
                return line
            heapq.heappop(turns)
            queue.has_turn = False
        return None

    def _next_of(self, line: Line, now: float, room: int | None) -> QueuedRow | None:
        """The tenant's next row, where it fits; else it is passed over. Any row fits where room is None."""
        queue = line.queue
        self._now = max(self._now, queue.counter)
        if queue.num_since_aged >= AGED_EVERY and len(queue.lines) > 1:
            aged = _aged(queue, now, room)
            if aged is not None:
                return aged
        queued = line.rows.popleft()
        if room is None or queued.num_tokens <= room:
            queue.num_since_aged += 1
            return queued
        self._passed_over.append(queued)
        self._opener = self._opener or queued
        return None

    def _serve(self, queued: QueuedRow) -> None:
        queue = queued.queue
        queue.counter += queued.num_tokens / queue.weight
        self._latest = max(self._latest, queue.counter)
        self._subtract(queued)

    def _subtract(self, queued: QueuedRow) -> None:
        queue, num_tokens = queued.queue, queued.num_tokens
        queued.is_live = False
        queue.num_rows -= 1
        queue.num_tokens -= num_tokens
        queued.line.num_tokens -= num_tokens
        if queued.is_ready:
            queue.num_ready -= 1
            self.num_ready -= 1
        if not queue.num_rows:
            queue.clear()
            self.num_tenants -= 1
            self.total_weight = self.total_weight - queue.weight if self.num_tenants else 0.0

    def _bury(self, queue: TenantQueue) -> None:
        """An entry of a row that has left stays until it is met."""
        if not queue.num_rows:
            return  # its lines are gone
        queue.num_dead += 1
        if queue.num_dead > queue.num_ready + COMPACT_SLACK:
            queue.compact()

    def _end_pack(self) -> None:
        """Put back what was passed over. Where nothing is left, nobody waited for another: all start level again."""
        for queued in reversed(self._passed_over):
            queued.line.rows.appendleft(queued)
            self._give_turn(queued.queue)
        self._passed_over.clear()
        if not self.num_ready:
            self._now = self._latest + BURST_TOKENS

    @property
    def _start(self) -> float:
        """Where a tenant starts that was idle for long."""
        return self._now - BURST_TOKENS

    def _give_turn(self, queue: TenantQueue) -> None:
        if not queue.has_turn:
            queue.has_turn = True
            heapq.heappush(self._turns, (queue.counter, queue.number, queue))

    def _forget_settled(self) -> None:
        """Idle tenants that would be lifted to the others anyway."""
        if len(self._tenants) < self._num_remembered:
            return
        self._tenants = {
            name: queue for name, queue in self._tenants.items() if queue.num_rows or queue.counter > self._start
        }
        self._num_remembered = max(MIN_REMEMBERED, 2 * len(self._tenants))


def _aged(queue: TenantQueue, now: float, room: int | None) -> QueuedRow | None:
    """The oldest row, taken out if it has waited too long and fits."""
    line = queue.oldest_line()
    assert line is not None, "it has its turn because it has a row"
    queued = line.rows[0]
    if now - queued.queued_at < AGED_AFTER_S:
        queue.num_since_aged = 0
        return None
    if room is not None and queued.num_tokens > room:
        return None
    queue.num_since_aged = 0
    return line.rows.popleft()
