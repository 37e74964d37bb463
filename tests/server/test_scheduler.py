"""The scheduler alone: order, budgets, deadlines, cancellation; a state machine for one exit per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prefixrack_adapters.rows import Row
from prefixrack_server.fair_queue import COMPACT_SLACK
from prefixrack_server.messages import BundleRef, RowWork
from prefixrack_server.queued_row import QueuedRow
from prefixrack_server.scheduler import Scheduler


def work(row_id: int, num_tokens: int = 1, *, digest: str | None = None, **options: Any) -> RowWork:
    bundle = None if digest is None else BundleRef(digest, "m", "t")
    return RowWork(row_id, Row((1,) * num_tokens, (0,) * num_tokens, 0), bundle, **options)


def ids(rows: Sequence[QueuedRow]) -> list[int]:
    return [row.work.row_id for row in rows]


def test_takes_what_is_ready_at_once() -> None:
    scheduler = Scheduler(100, 10)
    scheduler.add_ready(work(1), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [1]
    assert scheduler.take(0.0).rows == []


def test_lower_priority_number_first_then_arrival() -> None:
    scheduler = Scheduler(100, 10)
    for row_id, priority in [(1, 5), (2, 0), (3, 5), (4, 0)]:
        scheduler.add_ready(work(row_id, priority=priority), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [2, 4, 1, 3]


def test_urgent_rows_without_end_starve_nobody() -> None:
    scheduler = Scheduler(4, 2)
    scheduler.add_ready(work(0, 2, priority=1000), now=0.0)
    taken = []
    for turn in range(1, 16):
        for row_id in (2 * turn, 2 * turn + 1):
            scheduler.add_ready(work(row_id, 2), now=turn / 10)
        taken += ids(scheduler.take(turn / 10).rows)
    assert 0 in taken


def test_pack_keeps_the_token_and_row_budgets() -> None:
    scheduler = Scheduler(10, 3)
    for row_id in range(5):
        scheduler.add_ready(work(row_id, 4), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [0, 1]
    for row_id in range(5, 10):
        scheduler.add_ready(work(row_id, 1), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [2, 3, 5]


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    scheduler = Scheduler(10, 10)
    for row_id, num_tokens in [(1, 3), (2, 50), (3, 3)]:
        scheduler.add_ready(work(row_id, num_tokens), now=0.0)
    assert [ids(scheduler.take(0.0).rows) for _ in range(3)] == [[1, 3], [2], []]


def test_a_row_that_does_not_fit_is_passed_over_once() -> None:
    scheduler = Scheduler(10, 10)
    for row_id, num_tokens in [(1, 6), (2, 6), (3, 4), (4, 4)]:
        scheduler.add_ready(work(row_id, num_tokens), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [1, 3]
    scheduler.add_ready(work(5, 4), now=0.0)
    assert ids(scheduler.take(0.0).rows) == [2, 4]


def test_waiting_rows_enter_when_released() -> None:
    scheduler = Scheduler(100, 10)
    scheduler.add_waiting(work(1, digest="a"), now=0.0)
    scheduler.add_waiting(work(2, digest="b"), now=0.0)
    scheduler.add_waiting(work(3, digest="a"), now=0.0)
    assert scheduler.take(0.0).rows == []
    assert scheduler.release("a") == 2
    assert ids(scheduler.take(0.0).rows) == [1, 3]
    assert scheduler.is_awaited("b")
    assert not scheduler.is_awaited("a")


def test_refused_line_comes_back_whole() -> None:
    scheduler = Scheduler(100, 10)
    for row_id in (1, 2):
        scheduler.add_waiting(work(row_id, digest="a"), now=0.0)
    assert ids(scheduler.refuse("a")) == [1, 2]
    assert scheduler.refuse("a") == []
    assert scheduler.num_rows == scheduler.num_tokens == 0


def test_cancelled_rows_are_skipped() -> None:
    scheduler = Scheduler(100, 10)
    scheduler.add_ready(work(1), now=0.0)
    scheduler.add_ready(work(2), now=0.0)
    scheduler.add_waiting(work(3, digest="a"), now=0.0)
    assert scheduler.cancel(1) is not None
    assert scheduler.cancel(3) is not None
    assert scheduler.cancel(1) is None
    assert not scheduler.is_awaited("a")
    assert ids(scheduler.take(0.0).rows) == [2]


def test_rows_past_their_deadline_come_back_uncomputed() -> None:
    scheduler = Scheduler(100, 10)
    scheduler.add_ready(work(1, deadline=5.0), now=0.0)
    scheduler.add_ready(work(2, deadline=9.0), now=0.0)
    scheduler.add_waiting(work(3, digest="a", deadline=4.0), now=0.0)
    assert scheduler.next_deadline() == 4.0
    selection = scheduler.take(5.0)
    assert (ids(selection.rows), ids(selection.expired)) == ([2], [3, 1])
    assert scheduler.next_deadline() is None


def test_dead_entries_do_not_pile_up() -> None:
    scheduler = Scheduler(100, 10)
    for row_id in range(20 * COMPACT_SLACK):
        scheduler.add_ready(work(row_id, priority=row_id, deadline=1e9), now=0.0)
        scheduler.cancel(row_id)
    assert len(scheduler._deadlines) <= 2 * COMPACT_SLACK


class SchedulerMachine(RuleBasedStateMachine):
    """Any interleaving: each row leaves once, packs keep their budgets, ready rows are never left in an idle engine."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(max_pack_tokens=8, max_pack_rows=3)
        self.scheduler.deep_pack_tokens = 12
        self.now = 0.0
        self.num_submitted = 0
        self.inside: dict[int, RowWork] = {}
        self.waiting: dict[int, str] = {}

    @rule(
        num_tokens=st.integers(1, 12),
        digest=st.sampled_from([None, "a", "b"]),
        priority=st.integers(0, 2),
        patience=st.none() | st.integers(1, 5),
        tenant=st.sampled_from(["x", "y", "z"]),
    )
    def submit(self, num_tokens: int, digest: str | None, priority: int, patience: int | None, tenant: str) -> None:
        deadline = None if patience is None else self.now + patience
        options: dict[str, Any] = {"priority": priority, "deadline": deadline, "tenant": tenant}
        row = work(self.num_submitted, num_tokens, digest=digest, **options)
        self.num_submitted += 1
        self.inside[row.row_id] = row
        if digest is None:
            self.scheduler.add_ready(row, self.now)
        else:
            self.scheduler.add_waiting(row, self.now)
            self.waiting[row.row_id] = digest

    @precondition(lambda self: self.num_submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        row_id = data.draw(st.integers(0, self.num_submitted - 1))
        assert (self.scheduler.cancel(row_id) is not None) == (row_id in self.inside)
        self.leave([row_id] if row_id in self.inside else [])

    @rule(digest=st.sampled_from(["a", "b"]))
    def load_ends(self, digest: str) -> None:
        released = [row_id for row_id, awaited in self.waiting.items() if awaited == digest]
        assert self.scheduler.release(digest) == len(released)
        for row_id in released:
            del self.waiting[row_id]

    @rule(digest=st.sampled_from(["a", "b"]))
    def load_fails(self, digest: str) -> None:
        refused = ids(self.scheduler.refuse(digest))
        assert refused == [row_id for row_id, awaited in self.waiting.items() if awaited == digest]
        self.leave(refused)

    @rule()
    def pass_time(self) -> None:
        self.now += 1

    @rule()
    def take(self) -> None:
        selection = self.scheduler.take(self.now)
        due = {row_id for row_id, row in self.inside.items() if row.deadline is not None and row.deadline <= self.now}
        assert set(ids(selection.expired)) == due
        self.leave(ids(selection.expired))
        urgent_tokens = sum(len(row.row) for row in self.inside.values() if row.priority == 0)
        ready = [row_id for row_id in self.inside if row_id not in self.waiting]
        assert bool(selection.rows) == bool(ready)
        assert not set(ids(selection.rows)) & set(self.waiting)
        self.check_budget([self.inside[row_id] for row_id in ids(selection.rows)], urgent_tokens)
        self.leave(ids(selection.rows))

    def check_budget(self, pack: list[RowWork], urgent_tokens: int) -> None:
        if not pack:
            return
        assert len(pack) <= 3
        assert len(pack) == 1 or sum(len(row.row) for row in pack) <= max(8, min(12, urgent_tokens // 2))

    def leave(self, row_ids: list[int]) -> None:
        for row_id in row_ids:
            del self.inside[row_id]
            self.waiting.pop(row_id, None)

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.num_rows == len(self.inside)
        assert self.scheduler.num_ready == len(self.inside) - len(self.waiting)
        assert self.scheduler.num_tokens == sum(len(row.row) for row in self.inside.values())


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40)
