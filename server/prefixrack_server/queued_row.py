"""A row in the engine's queue, and whose it is. Knows no order among tenants and no tensors."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from prefixrack_server.messages import RowWork

_order, _priority = attrgetter("order"), attrgetter("priority")


class Line:
    """One tenant's rows of one priority. `rows` are the ready ones in order of arrival, and dead entries of those that
    left otherwise than by their turn; `num_tokens` are those of the rows that wait for their adapters too."""

    __slots__ = ("num_tokens", "priority", "queue", "rows")

    def __init__(self, queue: TenantQueue, priority: int) -> None:
        self.queue = queue
        self.priority = priority
        self.num_tokens = 0
        self.rows: deque[QueuedRow] = deque()

    def add(self, queued: QueuedRow) -> None:
        """In its place, which is the end but for rows whose adapter took a while to load."""
        rows = self.rows
        if not rows or rows[-1].order < queued.order:
            rows.append(queued)
        else:
            insort(rows, queued, key=_order)


@dataclass(slots=True, eq=False)
class TenantQueue:
    """What one tenant has queued. `counter` is what it was given so far: tokens, divided by its weight."""

    number: int  # whose turn it is where several were given the same
    weight: float = 1.0
    counter: float = 0.0
    num_rows: int = 0
    num_tokens: int = 0
    num_ready: int = 0
    num_dead: int = 0  # entries of rows that left otherwise
    num_since_aged: int = 0
    has_turn: bool = False  # whether the order of turns has an entry for it
    lines: list[Line] = field(default_factory=list)  # the most urgent first; few

    def line(self, priority: int) -> Line:
        for line in self.lines:
            if line.priority == priority:
                return line
        line = Line(self, priority)
        insort(self.lines, line, key=_priority)
        return line

    def first_line(self) -> Line | None:
        """The most urgent one with a ready row, which is then its first entry."""
        for line in self.lines:
            if self._has_live_head(line):
                return line
        return None

    def oldest_line(self) -> Line | None:
        """The one whose first ready row has waited longest."""
        heads = [line for line in self.lines if self._has_live_head(line)]
        return min(heads, key=lambda line: line.rows[0].order, default=None)

    def compact(self) -> None:
        """Drop the dead entries. Done once those are the many, it costs O(1) per row over time."""
        for line in self.lines:
            line.rows = deque(queued for queued in line.rows if queued.is_live)
        self.num_dead = 0

    def clear(self) -> None:
        """Nothing is queued any more."""
        self.lines.clear()
        self.num_dead = 0

    def _has_live_head(self, line: Line) -> bool:
        rows = line.rows
        while rows and not rows[0].is_live:
            rows.popleft()
            self.num_dead -= 1
        return bool(rows)


class QueuedRow:
    """A row in the queue. It is live until it is taken, cancelled, expired or refused."""

    __slots__ = ("is_live", "is_ready", "line", "num_tokens", "order", "queued_at", "work")

    def __init__(self, work: RowWork, order: int, queued_at: float, queue: TenantQueue) -> None:
        self.work = work
        self.order = order
        self.queued_at = queued_at
        self.line = queue.line(work.priority)
        self.is_ready = False
        self.is_live = True
        self.num_tokens = len(work.row)  # counted once: it is asked for often

    @property
    def queue(self) -> TenantQueue:
        return self.line.queue

    @property
    def digest(self) -> str | None:
        return None if self.work.bundle is None else self.work.bundle.digest


def digests_of(rows: Iterable[QueuedRow]) -> Iterable[str]:
    """The digest of each row that has one, once per row."""
    return (row.digest for row in rows if row.digest is not None)
