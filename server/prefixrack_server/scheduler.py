"""The scheduler: which rows go into the next pack. Knows digests, tenants and token counts; no tensors, no threads.

Not thread-safe: its caller holds one lock around every call. Time comes in as `now` (`time.monotonic()` seconds).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from prefixrack_server.fair_queue import COMPACT_SLACK, FairQueue, PackLimits, Standing
from prefixrack_server.messages import RowWork
from prefixrack_server.queued_row import QueuedRow

# So long after a tenant with little queued was there beside others the engine counts as shared: it may be back at once.
EXPECTED_S: Final = 10.0
# The same while several have rows waiting and all of them many: each waits for its own then, and full packs serve all.
MISSED_S: Final = 1.0
# Where such a tenant still has rows after a pack, packs of this size compute too little for all: they grow until none
# is left, and slowly shrink again.
GROWTH: Final = 1.1
DECAY: Final = 0.995
# Tenants that have little queued may make a pack of a shared engine so many times as large; that much is little.
TIMES_SHARED: Final = 4
# Of rows that somebody waits for. The depth of the queue is theirs: work that can wait must not make them wait longer.
URGENT: Final = 0


class Selection(NamedTuple):
    """What `take` hands back: the rows of one pack, and the rows whose deadline passed before they were computed.

    `is_full`: it left ready rows behind.
    """

    rows: Sequence[QueuedRow]
    expired: Sequence[QueuedRow]
    is_full: bool


NO_ROWS: Final = Selection((), (), is_full=False)


class Scheduler:
    """Ready rows in a `FairQueue`: by tenant, priority and age. Waiting rows in one line per digest.

    Work-conserving: `take` never waits for more rows. Each row leaves exactly once, through `take` (packed or
    expired), `cancel`, `refuse` or `drain`. A row costs O(log n) whatever the number of adapters: cancelled and
    expired rows stay in the heaps as dead entries, which are dropped when met or when they outnumber the live ones.
    """

    def __init__(self, max_pack_tokens: int, max_pack_rows: int) -> None:
        self.max_pack_tokens = max_pack_tokens  # may change between packs
        self.shared_pack_tokens = max_pack_tokens  # while several tenants want some; may change too
        self.deep_pack_tokens = max_pack_tokens  # while much is queued; may change too
        self._affordable_tokens = math.inf  # by the memory there is
        self._stretch = 1.0  # of shared packs
        self._modest_at = -math.inf  # when a tenant with little queued was last there beside others
        self._max_pack_rows = max_pack_rows
        self._orders = itertools.count()
        self._rows: dict[int, QueuedRow] = {}
        self._fair = FairQueue()
        self._lines: dict[str, dict[int, QueuedRow]] = {}
        self._deadlines: list[tuple[float, int, QueuedRow]] = []
        self._num_tokens = 0
        self._num_urgent_tokens = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def num_ready(self) -> int:
        return self._fair.num_ready

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    def standing(self, tenant: str, weight: float) -> Standing:
        return self._fair.standing(tenant, weight)

    def tokens_ahead(self, tenant: str, weight: float, priority: int) -> float:
        """How many tokens are computed before a new row of this tenant."""
        return self._fair.tokens_ahead(tenant, weight, priority, self._num_tokens)

    def add_ready(self, work: RowWork, now: float) -> None:
        """Queue a row that can be computed at once: its adapter is resident and pinned, or it has none."""
        self._fair.add(self._add(work, now))

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
            self._fair.add(queued)
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

        A pack is filled up to `pack_tokens` and `max_pack_rows`; a single longer row goes alone. In a shared engine
        it may be larger by rows of tenants that do not flood. Rows that do not fit beside the others are
        passed over and keep their place: the first of them opens the next pack.
        """
        expired = self._expire(now)
        if self._has_modest():
            self._modest_at = now
        picked = self._pick(now)
        self._fit_shared_packs()
        return Selection(picked, expired, is_full=self._fair.num_ready > 0)

    def pack_tokens(self, now: float) -> int:
        """How many tokens a pack that begins now is filled up to.

        Where much is queued, half of that: larger packs compute more in the same time, and the other half is computed
        while those who got their answers send again.
        """
        is_shared = now < self._modest_at + (EXPECTED_S if self._fair.num_tenants < 2 else MISSED_S)
        if is_shared:
            return min(self.max_pack_tokens, int(self._stretch * self.shared_pack_tokens))
        deep_tokens = min(self.deep_pack_tokens, self._num_urgent_tokens // 2, self._affordable_tokens)
        return max(self.max_pack_tokens, int(deep_tokens))

    def afford(self, num_tokens: int) -> bool:
        """Memory suffices for packs of no more than that. Whether they were allowed more until now."""
        allowed = min(max(self.max_pack_tokens, self.deep_pack_tokens), self._affordable_tokens)
        self._affordable_tokens = min(self._affordable_tokens, num_tokens)
        self.max_pack_tokens = min(self.max_pack_tokens, num_tokens)
        return num_tokens < allowed

    def _fit_shared_packs(self) -> None:
        if not self._has_modest():
            self._stretch = max(1.0, self._stretch * DECAY)
        elif self._stretch * self.shared_pack_tokens < self.max_pack_tokens:
            self._stretch *= GROWTH

    def _has_modest(self) -> bool:
        """Whether a tenant with little queued is there beside others."""
        return self._fair.num_tenants > 1 and self._fair.has_modest(TIMES_SHARED * self.shared_pack_tokens)

    def _pick(self, now: float) -> list[QueuedRow]:
        tokens = self.pack_tokens(now)
        most_tokens = max(tokens, min(self.max_pack_tokens, TIMES_SHARED * tokens))
        picked = self._fair.take(now, PackLimits(self._max_pack_rows, tokens, most_tokens))
        for queued in picked:
            self._uncount(queued)
        self._tidy_deadlines()
        return picked

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
        queued = self._fair.enter(work, next(self._orders), now)
        self._rows[work.row_id] = queued
        self._num_tokens += queued.num_tokens
        if work.priority <= URGENT:
            self._num_urgent_tokens += queued.num_tokens
        if work.deadline is not None:
            heapq.heappush(self._deadlines, (work.deadline, queued.order, queued))
        return queued

    def _uncount(self, queued: QueuedRow) -> None:
        del self._rows[queued.work.row_id]
        self._num_tokens -= queued.num_tokens
        if queued.work.priority <= URGENT:
            self._num_urgent_tokens -= queued.num_tokens

    def _remove_all(self, rows: list[QueuedRow]) -> list[QueuedRow]:
        for queued in rows:
            self._remove(queued)
        return rows

    def _remove(self, queued: QueuedRow) -> None:
        self._uncount(queued)
        self._fair.leave(queued)
        if not queued.is_ready:
            self._leave_line(queued)
        self._tidy_deadlines()

    def _tidy_deadlines(self) -> None:
        """Drop the entries of rows that have left, once those are the many: O(1) per row over time."""
        if len(self._deadlines) > 2 * len(self._rows) + COMPACT_SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[2].is_live]
            heapq.heapify(self._deadlines)

    def _leave_line(self, queued: QueuedRow) -> None:
        assert queued.digest is not None
        line = self._lines[queued.digest]
        del line[queued.work.row_id]
        if not line:
            del self._lines[queued.digest]
