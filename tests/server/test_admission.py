"""Who may join the engine's queue: deadlines, shares of tenants, a full server; and what callers are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from prefixrack_adapters.rows import Row
from prefixrack_server.admission import Admission, QueueLimits, Speed
from prefixrack_server.fair_queue import FREE_PART
from prefixrack_server.messages import RowFailure, RowWork
from prefixrack_server.scheduler import EXPECTED_S, Scheduler

PACK_TOKENS = 100
TOKENS_PER_S = 1000


def near(seconds: float) -> Any:
    return pytest.approx(seconds)


class Desk:
    """An engine that computes 1,000 tokens a second, with room for 1,000 tokens in its queue."""

    def __init__(
        self, limits: QueueLimits | None = None, shared_tokens: float = math.inf, deep_tokens: float = 0
    ) -> None:
        self.scheduler = Scheduler(PACK_TOKENS, 1000)
        self.admission = Admission(self.scheduler, limits or QueueLimits(100, 1000), shared_tokens, deep_tokens)
        self.admission.speed.note(TOKENS_PER_S, 1.0)
        self.num_rows = 0

    def request(self, num_rows: int, row_len: int = 10, **options: Any) -> list[RowWork]:
        row = Row((1,) * row_len, (0,) * row_len, 0)
        first, self.num_rows = self.num_rows, self.num_rows + num_rows
        return [RowWork(row_id, row, None, **options) for row_id in range(first, self.num_rows)]

    def queue(self, num_rows: int, row_len: int = 10, **options: Any) -> None:
        for work in self.request(num_rows, row_len, **options):
            self.scheduler.add_ready(work, 0.0)

    def compute(self, num_tokens: int, seconds: float, *, is_full: bool = True) -> None:
        """A pack that is done at 0."""
        self.admission.begin(num_tokens, -seconds)
        self.admission.end(num_tokens, seconds, 0.0, is_full=is_full)

    def refusal(self, num_rows: int = 1, row_len: int = 10, now: float = 0.0, **options: Any) -> RowFailure | None:
        return self.admission.refusal(self.request(num_rows, row_len, **options), now)

    def refused(self, *args: Any, **options: Any) -> tuple[str, float]:
        refusal = self.refusal(*args, **options)
        assert refusal is not None
        assert refusal.retry_after_s is not None
        return refusal.code, refusal.retry_after_s


def test_an_empty_queue_takes_anything() -> None:
    desk = Desk()
    assert desk.refusal(5000, tenant="a", deadline=0.001) is None


def test_a_deadline_that_the_queue_exceeds_is_refused_and_told_when_to_come() -> None:
    desk = Desk()
    desk.queue(50, tenant="a")
    refusal = desk.refusal(tenant="a", deadline=0.25)
    assert refusal is not None
    assert refusal.code == "server_overloaded"
    assert "about 0.60 s, the request has 0.25 s" in refusal.detail
    assert refusal.retry_after_s == pytest.approx(0.35)
    assert desk.refusal(tenant="a", deadline=0.65) is None
    assert desk.refusal(tenant="a") is None


def test_a_deadline_that_is_over_is_the_schedulers_to_tell() -> None:
    desk = Desk()
    desk.queue(50, tenant="a")
    assert desk.refusal(tenant="a", now=2.0, deadline=1.0) is None


def test_who_has_nothing_queued_does_not_wait_for_who_has_much() -> None:
    desk = Desk()
    desk.queue(50, tenant="flood")
    assert desk.refusal(tenant="calm", deadline=0.25) is None
    desk.queue(1, tenant="calm")
    assert desk.refusal(tenant="calm", deadline=0.25) is None
    assert desk.refusal(tenant="flood", deadline=0.25) is not None


def test_others_make_the_wait_longer_but_never_longer_than_the_queue() -> None:
    desk = Desk()
    desk.queue(20, tenant="a")
    desk.queue(20, tenant="b")
    desk.queue(5, tenant="c")
    # 200 of a's own before it, for which the others get as much each as they have: 450 in all.
    assert desk.refused(tenant="a", deadline=0.2) == ("server_overloaded", near(0.35))
    # 50 of c's own, and as much of each of the two others.
    assert desk.refused(tenant="c", deadline=0.2) == ("server_overloaded", near(0.05))


def test_what_is_being_computed_is_waited_for_too() -> None:
    desk = Desk()
    desk.queue(50, tenant="a")
    desk.admission.begin(100, now=0.0)
    desk.admission.begin(100, now=0.0)  # prepared beside the first
    assert desk.refused(tenant="a", deadline=0.6) == ("server_overloaded", near(0.2))
    assert desk.refused(tenant="a", now=0.1, deadline=0.6) == ("server_overloaded", near(0.2))
    assert desk.refusal(tenant="a", now=0.3, deadline=0.91) is None


def test_a_pack_that_took_less_than_expected_is_waited_for_no_more() -> None:
    desk = Desk()
    desk.queue(10, tenant="a")
    for _ in range(20):
        desk.compute(100, 0.05)
    assert desk.refusal(tenant="a", deadline=0.25) is None
    desk.admission.begin(100, now=0.0)
    desk.admission.begin(100, now=0.0)
    desk.admission.end(100, 0.1, 0.1, is_full=False)  # one of two: the other is still to be waited for
    assert desk.refused(tenant="a", now=0.1, deadline=0.11)[1] > 0.05


def test_a_speed_that_was_once_low_is_corrected_by_packs_that_are_not_full() -> None:
    """Else it would be for ever: what is refused because of it keeps packs from being full."""
    desk = Desk()
    desk.queue(50, tenant="a")
    assert desk.refusal(tenant="a", deadline=0.3) is not None
    desk.compute(100, 10.0, is_full=False)  # of an idle server: no sign of the speed
    assert desk.admission.speed.tokens_per_s == near(TOKENS_PER_S)
    for _ in range(40):
        desk.compute(500, 0.1, is_full=False)
    assert desk.admission.speed.tokens_per_s > 3 * TOKENS_PER_S
    assert desk.refusal(tenant="a", deadline=0.3) is None


def test_packs_of_a_shared_engine_take_a_twentieth_of_a_second() -> None:
    desk = Desk()
    desk.scheduler.max_pack_tokens = 5000
    desk.compute(20_000, 1.0)  # with the 1,000 tokens of the second before
    desk.queue(1000, tenant="a")
    desk.queue(1, tenant="b")
    enough = int(desk.admission.speed.tokens_per_s / 20)
    taken = sum(queued.num_tokens for queued in desk.scheduler.take(0.0).rows)
    assert enough - enough // FREE_PART <= taken <= enough
    assert desk.scheduler.pack_tokens(0.9 * EXPECTED_S) == enough  # the other may be back at once
    assert desk.scheduler.pack_tokens(1.1 * EXPECTED_S) == 5000


def test_packs_of_a_shared_engine_are_no_larger_than_was_set() -> None:
    desk = Desk(shared_tokens=50)
    desk.scheduler.max_pack_tokens = 5000
    desk.queue(1000, tenant="a")
    desk.queue(1, tenant="b")
    assert sum(queued.num_tokens for queued in desk.scheduler.take(0.0).rows) == 50
    desk.compute(20_000, 1.0)
    assert desk.scheduler.pack_tokens(0.0) == 50


def test_packs_of_a_deep_queue_take_a_quarter_of_a_second_and_are_no_larger_than_was_set() -> None:
    desk = Desk(deep_tokens=5000)
    desk.queue(20_000, tenant="a")
    assert desk.scheduler.pack_tokens(0.0) == PACK_TOKENS  # until a pack has shown the speed
    desk.compute(20_000, 1.0)
    assert desk.scheduler.pack_tokens(0.0) == int(desk.admission.speed.tokens_per_s / 4)
    assert PACK_TOKENS < desk.scheduler.pack_tokens(0.0) < 5000
    desk.compute(1_000_000, 1.0)
    assert desk.scheduler.pack_tokens(0.0) == 5000


def test_less_urgent_rows_are_not_waited_for() -> None:
    desk = Desk()
    desk.queue(50, tenant="a", priority=10)
    assert desk.refusal(tenant="a", deadline=0.01) is None
    assert desk.refusal(tenant="a", priority=10, deadline=0.01) is not None


def test_without_a_measured_speed_nobody_is_refused_for_a_deadline() -> None:
    desk = Desk()
    desk.admission.speed = Speed()
    desk.queue(50, tenant="a")
    assert desk.refusal(tenant="a", deadline=0.01) is None


def test_a_full_server_says_when_there_is_room() -> None:
    desk = Desk()
    desk.queue(99, tenant="a")
    assert desk.refusal(1, tenant="a") is None
    assert desk.refused(31, tenant="a") == ("server_overloaded", near(0.3))


def test_rows_are_counted_too() -> None:
    desk = Desk(QueueLimits(10, 1000))
    desk.queue(10, 1, tenant="a")
    refusal = desk.refusal(1, 1, tenant="a")
    assert refusal is not None
    assert "10 rows with 10 tokens are waiting, allowed are 10 rows" in refusal.detail


def test_a_tenant_over_its_share_is_told_so_and_the_others_come_in() -> None:
    desk = Desk()
    desk.queue(95, tenant="flood")
    desk.queue(5, tenant="calm")
    refusal = desk.refusal(1, tenant="flood")
    assert refusal is not None
    assert refusal.code == "queue_share_exceeded"
    assert "your tenant has 95 rows with 950 tokens of it, more than its share of 50%" in refusal.detail
    # 460 tokens over its half of the queue, computed with half of the speed.
    assert refusal.retry_after_s == pytest.approx(0.92)
    assert desk.refusal(10, tenant="calm") is None
    assert desk.refusal(10, tenant="new") is None


def test_shares_are_by_weight() -> None:
    desk = Desk()
    desk.queue(50, tenant="a", weight=3.0)
    desk.queue(50, tenant="b")
    assert desk.refusal(20, tenant="a", weight=3.0) is None
    assert desk.refused(20, tenant="b")[0] == "queue_share_exceeded"


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.tokens_per_s == 0
    for _ in range(10):
        speed.note(1000, 1.0)
    assert speed.tokens_per_s == pytest.approx(1000)
    for _ in range(200):
        speed.note(200, 0.1)
    assert speed.tokens_per_s == pytest.approx(2000, rel=0.05)


def test_what_is_refused_leaves_no_trace() -> None:
    desk = Desk()
    desk.queue(100, tenant="a")
    before = (desk.scheduler.num_rows, desk.scheduler.num_tokens)
    refusals: Sequence[Any] = [desk.refusal(1, tenant="a") for _ in range(5)]
    assert all(refusals)
    assert (desk.scheduler.num_rows, desk.scheduler.num_tokens) == before
