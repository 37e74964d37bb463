"""Whose turn it is: shares by weight, no credit for idling, priorities and age within a tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefixrack_adapters.rows import Row
from prefixrack_server.fair_queue import (
    AGED_AFTER_S,
    AGED_EVERY,
    COMPACT_SLACK,
    FREE_PART,
    MIN_REMEMBERED,
)
from prefixrack_server.messages import BundleRef, RowWork
from prefixrack_server.scheduler import EXPECTED_S, MISSED_S, Scheduler

PACK_TOKENS = 64


class Queue:
    """A scheduler with rows of several tenants in it, numbered as they come."""

    def __init__(self, max_pack_tokens: int = PACK_TOKENS) -> None:
        self.scheduler = Scheduler(max_pack_tokens, 1000)
        self.num_rows = 0
        self.now = 0.0

    def add(self, tenant: str, lengths: Iterable[int], **options: Any) -> list[int]:
        row_ids = []
        for num_tokens in lengths:
            row = Row((1,) * num_tokens, (0,) * num_tokens, 0)
            self.scheduler.add_ready(RowWork(self.num_rows, row, None, tenant=tenant, **options), self.now)
            row_ids.append(self.num_rows)
            self.num_rows += 1
        return row_ids

    def take(self) -> list[RowWork]:
        return [queued.work for queued in self.scheduler.take(self.now).rows]

    def tokens_of(self, num_packs: int) -> Counter[str]:
        tokens: Counter[str] = Counter()
        for _ in range(num_packs):
            for work in self.take():
                tokens[work.tenant] += len(work.row)
        return tokens


def test_tenants_share_by_tokens_and_not_by_rows() -> None:
    queue = Queue()
    queue.add("short", [2] * 2000)
    queue.add("long", [20] * 200)
    tokens = queue.tokens_of(20)
    assert abs(tokens["short"] - tokens["long"]) <= 20


def test_a_tenant_with_twice_the_weight_gets_twice_the_tokens() -> None:
    queue = Queue()
    queue.add("heavy", [4] * 1000, weight=2.0)
    queue.add("light", [4] * 1000)
    tokens = queue.tokens_of(30)
    assert tokens["heavy"] == pytest.approx(2 * tokens["light"], rel=0.02)


def test_what_one_does_not_use_is_the_others() -> None:
    queue = Queue()
    queue.add("flood", [4] * 1000)
    queue.add("calm", [4] * 2)
    assert queue.tokens_of(1) == {"flood": 56, "calm": 8}
    assert queue.tokens_of(1) == {"flood": 64}


def test_idling_earns_a_burst_however_long_it_was() -> None:
    """One that comes back after a long time is ahead for a moment and shares from then on; it does not catch up."""
    queue = Queue()
    queue.add("late", [4])
    queue.add("steady", [4] * 20_000)
    queue.tokens_of(1000)
    queue.add("late", [4] * 500)
    assert queue.tokens_of(31) == {"late": 31 * PACK_TOKENS}
    queue.tokens_of(10)
    queue.add("late", [4] * 10_000)
    later = queue.tokens_of(100)
    assert abs(later["late"] - later["steady"]) <= 8


def test_who_comes_with_more_than_a_burst_has_none() -> None:
    """So a flood is behind the others from its first moment, though it was given nothing before."""
    queue = Queue()
    queue.add("calm", [4])
    queue.add("steady", [4] * 20_000)
    queue.tokens_of(1000)
    queue.add("flood", [4] * 10_000)
    tokens = queue.tokens_of(100)
    assert abs(tokens["flood"] - tokens["steady"]) <= 8
    queue.add("calm", [4] * 100)
    assert queue.tokens_of(7)["calm"] >= 6 * PACK_TOKENS


def test_leaving_for_a_moment_clears_no_debt() -> None:
    """One row went far over what the others were given: its tenant waits for them, though it was away meanwhile."""
    queue = Queue(max_pack_tokens=8)
    queue.add("burst", [80])
    queue.add("other", [8] * 100)
    assert queue.tokens_of(1) == {"burst": 80}
    assert queue.tokens_of(1) == {"other": 8}
    queue.add("burst", [8] * 100)
    assert queue.tokens_of(8) == {"other": 64}
    assert queue.tokens_of(10)["burst"] >= 32


def test_when_nobody_waits_all_start_level() -> None:
    queue = Queue(max_pack_tokens=8)
    queue.add("burst", [80])
    assert queue.tokens_of(1) == {"burst": 80}
    queue.add("other", [8] * 100)
    queue.add("burst", [8] * 100)
    assert queue.tokens_of(10)["burst"] == 40


def test_a_newcomer_is_in_the_next_pack_however_many_rows_wait() -> None:
    queue = Queue()
    queue.add("flood", [4] * 10_000)
    queue.tokens_of(5)
    (new,) = queue.add("calm", [4])
    assert new in [work.row_id for work in queue.take()]


def test_who_floods_fills_a_shared_pack_and_the_others_go_along() -> None:
    queue = Queue(max_pack_tokens=1000)
    queue.scheduler.shared_pack_tokens = 40
    queue.add("flood", [4] * 10_000)
    queue.add("calm", [4])
    assert queue.tokens_of(1) == {"flood": 36, "calm": 4}
    assert queue.tokens_of(1) == {"flood": 40}
    queue.add("calm", [4] * 30)
    assert queue.tokens_of(1) == {"calm": 72}  # until it was given as much as the other
    assert queue.tokens_of(1) == {"calm": 24, "flood": 24}  # rows of it were left: packs grow
    assert queue.tokens_of(1)["calm"] == 24
    queue.tokens_of(100)
    assert queue.scheduler.pack_tokens(queue.now) == 40
    queue.now = EXPECTED_S
    assert queue.tokens_of(1)["flood"] > 1000 - 1000 // FREE_PART


def test_where_all_have_much_queued_packs_are_full_again() -> None:
    queue = Queue(max_pack_tokens=1000)
    queue.scheduler.shared_pack_tokens = 40
    for tenant in ("a", "b"):
        queue.add(tenant, [4] * 10_000)
    queue.add("calm", [4])
    assert queue.tokens_of(1).total() == 40
    queue.now = MISSED_S
    assert queue.tokens_of(1).total() > 1000 - 1000 // FREE_PART


@pytest.mark.parametrize(
    ("num_queued", "pack_tokens"),
    [(100, 100), (199, 100), (240, 120), (300, 150), (10_000, 150)],
    ids=["little", "not yet", "half of it", "the most", "no more than that"],
)
def test_a_deep_queue_has_larger_packs(num_queued: int, pack_tokens: int) -> None:
    queue = Queue(max_pack_tokens=100)
    queue.scheduler.deep_pack_tokens = 150
    queue.add("a", [1] * num_queued)
    assert queue.tokens_of(1).total() in range(pack_tokens - pack_tokens // FREE_PART, pack_tokens + 1)


def test_rows_that_can_wait_make_no_queue_deep() -> None:
    """Or who comes with a request while a bulk body is worked off would wait for packs twice as large."""
    queue = Queue(max_pack_tokens=100)
    queue.scheduler.deep_pack_tokens = 150
    queue.add("a", [1] * 10_000, priority=10)
    assert queue.tokens_of(1).total() <= 100
    cancelled = queue.add("a", [1] * 1000)
    assert queue.tokens_of(1).total() > 100
    for row_id in cancelled:
        queue.scheduler.cancel(row_id)
    assert queue.tokens_of(1).total() <= 100


def test_a_deep_queue_of_a_shared_engine_has_small_packs_all_the_same() -> None:
    queue = Queue(max_pack_tokens=100)
    queue.scheduler.deep_pack_tokens, queue.scheduler.shared_pack_tokens = 150, 40
    queue.add("flood", [4] * 10_000)
    queue.add("calm", [4])
    assert queue.tokens_of(1).total() == 40


def test_no_pack_is_larger_than_the_memory_that_there_is() -> None:
    queue = Queue(max_pack_tokens=100)
    queue.scheduler.deep_pack_tokens = 150
    queue.add("a", [1] * 10_000)
    assert not queue.scheduler.afford(150)
    assert queue.tokens_of(1).total() > 100
    assert queue.scheduler.afford(120)
    assert queue.tokens_of(1).total() in range(100, 121)
    assert queue.scheduler.afford(60)
    assert queue.tokens_of(1).total() in range(50, 61)
    assert not queue.scheduler.afford(60)


def test_tenants_that_have_little_queued_share_one_pack() -> None:
    queue = Queue(max_pack_tokens=1000)
    queue.scheduler.shared_pack_tokens = 40
    for tenant in ("a", "b", "c"):
        queue.add(tenant, [4] * 8)
    assert queue.tokens_of(1) == {"a": 32, "b": 32, "c": 32}


def test_rows_whose_adapter_took_long_to_load_are_as_old_as_they_are() -> None:
    queue = Queue(max_pack_tokens=8)
    bundle = BundleRef("digest", "m", "t")
    row = Row((1,) * 4, (0,) * 4, 0)
    for row_id in (10_000, 10_001):
        queue.scheduler.add_waiting(RowWork(row_id, row, bundle, tenant="one"), 0.0)
    ready = queue.add("one", [4] * 2)
    queue.scheduler.release(bundle.digest)
    assert [[work.row_id for work in queue.take()] for _ in range(2)] == [[10_000, 10_001], ready]


def test_priorities_are_within_a_tenant() -> None:
    queue = Queue(max_pack_tokens=8)
    bulk = queue.add("one", [4] * 2, priority=10)
    urgent = queue.add("one", [4])
    (other,) = queue.add("two", [4], priority=1000)
    packs = [[work.row_id for work in queue.take()] for _ in range(2)]
    assert packs == [[urgent[0], other], bulk]


def test_one_row_in_so_many_goes_by_age() -> None:
    queue = Queue(max_pack_tokens=4)
    old = queue.add("one", [4] * 2, priority=1000)
    queue.now = AGED_AFTER_S
    urgent = queue.add("one", [4] * 100)
    taken = [queue.take()[0].row_id for _ in range(2 * AGED_EVERY + 2)]
    assert taken == [*urgent[:AGED_EVERY], old[0], *urgent[AGED_EVERY : 2 * AGED_EVERY], old[1]]


def test_a_long_row_opens_the_pack_after_the_one_that_it_did_not_fit() -> None:
    queue = Queue(max_pack_tokens=10)
    queue.add("short", [3] * 100)
    (long,) = queue.add("long", [9])
    queue.add("long", [1] * 100)
    packs = [[work.row_id for work in queue.take()] for _ in range(2)]
    assert packs[1][0] == long


def test_rows_that_left_otherwise_are_no_turn() -> None:
    queue = Queue(max_pack_tokens=4)
    gone = queue.add("gone", [4] * 3)
    (stays,) = queue.add("stays", [4])
    for row_id in gone:
        queue.scheduler.cancel(row_id)
    assert [work.row_id for work in queue.take()] == [stays]
    assert queue.take() == []


def test_dead_entries_and_idle_tenants_do_not_pile_up() -> None:
    queue = Queue()
    for number in range(20 * MIN_REMEMBERED):
        queue.add(f"tenant {number}", [4])
        queue.take()
    fair = queue.scheduler._fair
    assert len(fair._tenants) <= 2 * MIN_REMEMBERED
    assert len(fair._turns) <= 2 * MIN_REMEMBERED
    stays = queue.add("one", [4])
    for priority in range(20 * COMPACT_SLACK):
        (row_id,) = queue.add("one", [4], priority=priority % 3)
        queue.scheduler.cancel(row_id)
    assert sum(len(line.rows) for line in fair._tenants["one"].lines) <= 2 + COMPACT_SLACK
    queue.scheduler.cancel(*stays)
    assert fair._tenants["one"].lines == []
    assert (fair.num_tenants, fair.total_weight) == (0, 0.0)


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=2, max_size=5),
    lengths=st.lists(st.integers(1, 2 * PACK_TOKENS), min_size=1, max_size=8),
    num_packs=st.integers(1, 60),
)
@settings(max_examples=60)
def test_backlogged_tenants_differ_by_less_than_a_pack(
    weights: list[float], lengths: list[int], num_packs: int
) -> None:
    """The paper's bound, with rows of any lengths passed over: what each was given, by its weight, stays together."""
    queue = Queue()
    for number, weight in enumerate(weights):
        mine = lengths[number % len(lengths) :] + lengths
        enough = num_packs * 2 * PACK_TOKENS // sum(mine) + 1
        queue.add(str(number), mine * enough, weight=weight)
    tokens = queue.tokens_of(num_packs)
    given = [tokens[str(number)] / weight for number, weight in enumerate(weights)]
    longest = max(lengths)
    assert max(given) - min(given) <= 2 * (PACK_TOKENS + longest) / min(weights)
