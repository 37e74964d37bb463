"""The scheduler: which rows go into the next pack. Knows digests and token counts; no tensors, no threads, no names.

Not thread-safe: its caller holds one lock around every call. Time comes in as `now` (`time.monotonic()` seconds).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from prefixrack_server.messages import RowWork

# A row that does not fit the rest of a pack is passed over; this many at most, so that a pack costs no more than that.
MAX_PASSED_OVER = 64
# A heap is rebuilt without its dead entries once they outnumber the live ones by more than this.
COMPACT_SLACK = 64
# A row that has waited longer than this comes first, whatever its priority: one such row a pack.
AGED_AFTER_S = 1.0

K = TypeVar("K", int, float)


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row in the queue. It is live until it is taken, cancelled, expired or refused."""

    work: RowWork
    order: int
    queued_at: float
    is_ready: bool
    is_live: bool = True

    @property
    def num_tokens(self) -> int:
        return len(self.work.row)

    @property
    def digest(self) -> str | None:
        return None if self.work.bundle is None else self.work.bundle.digest


class Selection(NamedTuple):
    """What `take` hands back: the rows of one pack, and the rows whose deadline passed before they were computed."""

    rows: list[QueuedRow]
    expired: list[QueuedRow]


class Scheduler:
    """Ready rows by priority and arrival, waiting rows in one line per digest.

    Priority alone would starve bulk lines and probes under load that never ends: so the oldest ready row opens the
    pack once it is `AGED_AFTER_S` old, and every row has its turn.

    Work-conserving: `take` never waits for more rows. Each row leaves exactly once, through `take` (packed or
    expired), `cancel`, `refuse` or `drain`. A row costs O(log n) whatever the number of adapters: cancelled and
    expired rows stay in the heaps as dead entries, which are dropped when met or when they outnumber the live ones.
    """

    def __init__(self, max_pack_tokens: int, max_pack_rows: int) -> None:
        self.max_pack_tokens = max_pack_tokens  # may change between packs
        self._max_pack_rows = max_pack_rows
        self._orders = itertools.count()
        self._rows: dict[int, QueuedRow] = {}
        self._ready: list[tuple[int, int, QueuedRow]] = []
        self._ages: list[tuple[float, int, QueuedRow]] = []  # the ready rows again, by arrival
        self._lines: dict[str, dict[int, QueuedRow]] = {}
        self._deadlines: list[tuple[float, int, QueuedRow]] = []
        self._num_ready = 0
        self._num_tokens = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def num_ready(self) -> int:
        return self._num_ready

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    def add_ready(self, work: RowWork, now: float) -> None:
        """Queue a row that can be computed at once: its adapter is resident and pinned, or it has none."""
        self._push_ready(self._add(work, now))

    def add_waiting(self, work: RowWork, now: float) -> None:
        """Queue a row behind its adapter's load."""
        assert work.bundle is not None, "a row without an adapter never waits for one"
        queued = self._add(work, now)
        self._lines.setdefault(work.bundle.digest, {})[work.row_id] = queued

    def is_awaited(self, digest: str) -> bool:
        return digest in self._lines

    def release(self, digest: str) -> int:
        """Move the line of `digest` to the ready rows, in order of arrival. Returns their number."""
        line = self._lines.pop(digest, {})
        for queued in line.values():
            self._push_ready(queued)
        return len(line)

    def refuse(self, digest: str) -> list[QueuedRow]:
        """Take out the line of `digest`: its load failed."""
        return self._remove_all(list(self._lines.get(digest, {}).values()))

    def cancel(self, row_id: int) -> QueuedRow | None:
        """Take out a row whose caller has left. None where it is not queued (any more)."""
        queued = self._rows.get(row_id)
        if queued is not None:
            self._remove(queued)
        return queued

    def drain(self) -> list[QueuedRow]:
        """Take out every row."""
        return self._remove_all(list(self._rows.values()))

    def next_deadline(self) -> float | None:
        while self._deadlines and not self._deadlines[0][2].is_live:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def take(self, now: float) -> Selection:
        """The rows of the next pack, whatever is ready, and the rows past their deadline.

        A pack holds at most `max_pack_tokens` and `max_pack_rows`; a single longer row goes alone. Rows that do not
        fit beside the others are passed over and keep their place: the first of them opens the next pack.
        """
        expired = self._expire(now)
        return Selection(self._pick(self._take_aged(now)), expired)

    def _take_aged(self, now: float) -> list[QueuedRow]:
        """The oldest ready row, if it has waited too long."""
        while self._ages and not self._ages[0][2].is_live:
            heapq.heappop(self._ages)
        if not self._ages or now - self._ages[0][0] < AGED_AFTER_S:
            return []
        return self._remove_all([heapq.heappop(self._ages)[2]])

    def _pick(self, aged: list[QueuedRow]) -> list[QueuedRow]:
        """The rest of the pack, by priority."""
        picked = list(aged)
        passed_over: list[tuple[int, int, QueuedRow]] = []
        room = self.max_pack_tokens - sum(queued.num_tokens for queued in aged)
        while self._ready and room > 0 and len(picked) < self._max_pack_rows and len(passed_over) < MAX_PASSED_OVER:
            entry = heapq.heappop(self._ready)
            queued = entry[2]
            if not queued.is_live:
                continue
            if picked and queued.num_tokens > room:
                passed_over.append(entry)
                continue
            picked.append(queued)
            room -= queued.num_tokens
        for entry in passed_over:
            heapq.heappush(self._ready, entry)
        return aged + self._remove_all(picked[len(aged) :])

    def _expire(self, now: float) -> list[QueuedRow]:
        expired: list[QueuedRow] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            queued = heapq.heappop(self._deadlines)[2]
            if queued.is_live:
                self._remove(queued)
                expired.append(queued)
        return expired

    def _add(self, work: RowWork, now: float) -> QueuedRow:
        assert work.row_id not in self._rows, f"row {work.row_id} is queued already"
        queued = QueuedRow(work, next(self._orders), now, is_ready=False)
        self._rows[work.row_id] = queued
        self._num_tokens += queued.num_tokens
        if work.deadline is not None:
            heapq.heappush(self._deadlines, (work.deadline, queued.order, queued))
        return queued

    def _push_ready(self, queued: QueuedRow) -> None:
        queued.is_ready = True
        self._num_ready += 1
        heapq.heappush(self._ready, (queued.work.priority, queued.order, queued))
        heapq.heappush(self._ages, (queued.queued_at, queued.order, queued))

    def _remove_all(self, rows: list[QueuedRow]) -> list[QueuedRow]:
        for queued in rows:
            self._remove(queued)
        return rows

    def _remove(self, queued: QueuedRow) -> None:
        del self._rows[queued.work.row_id]
        queued.is_live = False
        self._num_tokens -= queued.num_tokens
        if queued.is_ready:
            self._num_ready -= 1
        else:
            self._leave_line(queued)
        self._ready = _compacted(self._ready, self._num_ready)
        self._ages = _compacted(self._ages, self._num_ready)
        self._deadlines = _compacted(self._deadlines, len(self._rows))

    def _leave_line(self, queued: QueuedRow) -> None:
        assert queued.digest is not None
        line = self._lines[queued.digest]
        del line[queued.work.row_id]
        if not line:
            del self._lines[queued.digest]


def _compacted(heap: list[tuple[K, int, QueuedRow]], num_live: int) -> list[tuple[K, int, QueuedRow]]:
    """The heap itself, or a copy without its dead entries once those are the many: O(1) per row over time."""
    if len(heap) <= 2 * num_live + COMPACT_SLACK:
        return heap
    live = [entry for entry in heap if entry[2].is_live]
    heapq.heapify(live)
    return live


def digests_of(rows: Iterable[QueuedRow]) -> Iterable[str]:
    """The digest of each row that has one, once per row."""
    return (row.digest for row in rows if row.digest is not None)
