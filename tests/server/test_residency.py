"""Residency alone: loads, pins, eviction, the line for room. Loader jobs run when the test says so."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from prefixrack.errors import MalformedBundle
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.eviction import UNUSED_S
from prefixrack_server.fair_line import FairJobs
from prefixrack_server.messages import BundleRef, RowFailure
from prefixrack_server.residency import MAX_TOGETHER, Fetched, Residency

NUM_THREADS = 2


@dataclass(frozen=True)
class FakeAdapter:
    digest: str
    size_bytes: int


@dataclass
class FakeLoader:
    """Sizes by the digest's last digit: `a3` takes 3 bytes. `true_sizes` are found out when loading.

    `faults` are those of files, `copy_faults` of what is in host memory. `batches` are what was loaded together.
    """

    faults: dict[str, Exception] = field(default_factory=dict)
    copy_faults: dict[str, Exception] = field(default_factory=dict)
    true_sizes: dict[str, int] = field(default_factory=dict)
    num_evictions: Counter[str] = field(default_factory=Counter)
    in_host: set[str] = field(default_factory=set)
    fetches: list[str] = field(default_factory=list)
    batches: list[Sequence[str]] = field(default_factory=list)

    def at_hand(self, bundle: BundleRef) -> Fetched | None:
        if bundle.digest not in self.in_host:
            return None
        return Fetched(bundle, cast("Manifest", None), None, self.size_bytes(bundle.digest))

    def fetch(self, bundle: BundleRef) -> Fetched:
        self.fetches.append(bundle.digest)
        if bundle.digest in self.faults:
            raise self.faults[bundle.digest]
        return Fetched(bundle, cast("Manifest", None), Path(), int(bundle.digest[1:]))

    def load(self, fetched: Fetched) -> FakeAdapter:
        digest = fetched.bundle.digest
        if digest in self.copy_faults:
            raise self.copy_faults[digest]
        self.in_host.add(digest)
        return FakeAdapter(digest, self.size_bytes(digest))

    def load_at_hand(self, digests: Sequence[str]) -> Mapping[str, FakeAdapter]:
        self.batches.append(digests)
        for digest in self.copy_faults.keys() & digests:
            raise self.copy_faults[digest]
        return {digest: FakeAdapter(digest, self.size_bytes(digest)) for digest in self.in_host.intersection(digests)}

    def size_bytes(self, digest: str) -> int:
        return self.true_sizes.get(digest, int(digest[1:]))

    def evicted(self, digest: str) -> None:
        self.num_evictions[digest] += 1

    def forget(self, digest: str) -> None:
        self.in_host.discard(digest)


class ManualThreads(Executor):
    """Keeps jobs until the test runs them."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future

    def run_all(self) -> None:
        while self.jobs:
            self.jobs.pop(0)()


class Desk:
    """A residency with a budget of 10 bytes, and the rows that wait for its adapters, counted per digest."""

    def __init__(self) -> None:
        self.now = 0.0
        self.loader = FakeLoader()
        self.threads = ManualThreads()
        self.waiting: dict[str, int] = {}
        self.failures: list[tuple[str, str]] = []
        self.residency: Residency[FakeAdapter] = Residency(
            self.loader,
            self,
            lock := threading.RLock(),
            lambda: self.now,
            FairJobs(self.threads, NUM_THREADS, lock),
            FairJobs(self.threads, NUM_THREADS, lock),
            budget_bytes=10,
            retry_after_s=2.0,
        )

    def is_awaited(self, digest: str) -> bool:
        return bool(self.waiting.get(digest))

    def admit(self, digest: str) -> None:
        self.residency.pin(digest, self.waiting.pop(digest, 0))

    def refuse(self, digest: str, failure: RowFailure) -> None:
        self.failures += [(digest, failure.code)] * self.waiting.pop(digest, 0)

    def demand(self, digest: str, tenant: str = "one") -> str:
        (demand,) = self.demand_together(digest, tenant=tenant)
        return demand

    def demand_together(self, *digests: str, tenant: str = "one") -> list[str]:
        demands = [self._place(digest, tenant) for digest in digests]
        self.residency.start_loads()
        return demands

    def _place(self, digest: str, tenant: str) -> str:
        demand = self.residency.demand(bundle(digest), tenant)
        if isinstance(demand, RowFailure):
            return demand.code
        if demand == "wait":
            self.waiting[digest] = self.waiting.get(digest, 0) + 1
        return demand

    def use(self, digest: str, tenant: str = "one") -> None:
        """A row comes, is computed, and goes."""
        if self.demand(digest, tenant) == "wait":
            self.threads.run_all()
        self.residency.unpin(digest)

    def states(self, *digests: str) -> list[str]:
        return [self.residency.state(digest) for digest in digests]


def bundle(digest: str) -> BundleRef:
    return BundleRef(digest, "m", "t")


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_absent_loading_resident(desk: Desk) -> None:
    assert desk.states("a3") == ["absent"]
    assert desk.demand("a3") == "wait"
    assert desk.states("a3") == ["loading"]
    desk.threads.run_all()
    assert desk.states("a3") == ["resident"]
    assert desk.residency.adapter("a3").digest == "a3"
    assert desk.demand("a3") == "ready"
    assert desk.residency.stats().held_bytes == 3


def test_least_recently_used_goes_first(desk: Desk) -> None:
    for digest in ("a4", "b4", "a4", "c4"):
        desk.use(digest)
    assert desk.states("a4", "b4", "c4") == ["resident", "absent", "resident"]
    assert desk.residency.stats().num_evictions == 1


def test_a_load_waits_for_the_last_pin(desk: Desk) -> None:
    for digest in ("a4", "a4", "b4"):
        desk.demand(digest)
    desk.threads.run_all()
    desk.demand("c4")
    desk.threads.run_all()
    assert desk.states("a4", "b4", "c4") == ["resident", "resident", "loading"]
    desk.residency.unpin("a4")
    assert desk.states("a4") == ["resident"]
    desk.residency.unpin("a4")
    desk.threads.run_all()
    assert desk.states("a4", "b4", "c4") == ["absent", "resident", "resident"]


def test_rows_of_resident_adapters_line_up_behind_a_load_that_waits(desk: Desk) -> None:
    for digest in ("a5", "b5"):
        desk.demand(digest)
    desk.threads.run_all()
    desk.demand("c5")
    desk.threads.run_all()
    assert desk.demand("a5") == "wait"
    assert desk.demand("b5") == "wait"
    desk.residency.unpin("a5")
    assert desk.residency.state("c5") == "loading"
    assert not desk.is_awaited("b5")
    desk.threads.run_all()
    assert desk.states("a5", "b5", "c5") == ["loading", "resident", "resident"]
    desk.residency.unpin("c5")
    desk.threads.run_all()
    assert desk.states("a5", "b5", "c5") == ["resident", "resident", "absent"]


def test_a_load_that_nobody_wants_any_more_takes_no_room(desk: Desk) -> None:
    desk.demand("a9")
    desk.threads.run_all()
    desk.demand("b9")
    desk.threads.run_all()
    desk.waiting.clear()
    desk.residency.unpin("a9")
    assert desk.states("a9", "b9") == ["resident", "absent"]


def test_larger_than_the_budget_fails(desk: Desk) -> None:
    desk.demand("a11")
    desk.threads.run_all()
    assert desk.failures == [("a11", "bundle_too_large")]
    assert "resident_bytes" in str(desk.residency.demand(bundle("a11"), "one"))


def test_a_failed_load_answers_for_a_while_then_is_tried_again(desk: Desk) -> None:
    desk.loader.faults["a3"] = MalformedBundle("corrupt")
    desk.demand("a3")
    desk.demand("a3")
    desk.threads.run_all()
    assert desk.failures == [("a3", "malformed_bundle")] * 2
    assert desk.demand("a3") == "malformed_bundle"
    assert desk.states("a3") == ["failed"]
    desk.loader.faults.clear()
    desk.now = 2.0
    assert desk.demand("a3") == "wait"
    desk.threads.run_all()
    assert desk.states("a3") == ["resident"]


def test_an_unexpected_error_is_an_internal_error(desk: Desk) -> None:
    desk.loader.faults["a3"] = FileNotFoundError("gone")
    desk.demand("a3")
    desk.threads.run_all()
    assert desk.failures == [("a3", "internal_error")]
    assert desk.residency.stats().num_failed_loads == 1


def test_old_failures_are_forgotten(desk: Desk) -> None:
    for index in range(20):
        desk.loader.faults[f"a{index}"] = MalformedBundle("corrupt")
        desk.demand(f"a{index}")
        desk.threads.run_all()
        desk.now += 1.0
    assert len(desk.residency._entries) <= 3


def test_kept_adapters_are_never_evicted(desk: Desk) -> None:
    desk.residency.keep(bundle("a4"))
    desk.threads.run_all()
    for digest in ("b4", "c4", "d4"):
        desk.use(digest)
    assert desk.states("a4", "d4") == ["resident", "resident"]
    desk.residency.unkeep("a4")
    desk.use("e4")
    desk.use("f4")
    assert desk.states("a4", "f4") == ["absent", "resident"]


def test_a_forgotten_adapter_goes_when_nobody_holds_it(desk: Desk) -> None:
    for digest in ("a3", "b3"):
        desk.use(digest)
    desk.demand("b3")
    for digest in ("a3", "b3", "never-seen"):
        desk.residency.forget(digest)
    assert desk.states("a3", "b3") == ["absent", "resident"]
    desk.residency.unpin("b3")
    assert desk.states("b3") == ["absent"]
    assert desk.residency.stats().held_bytes == 0
    desk.use("a3")
    assert desk.states("a3") == ["resident"]


def test_an_adapter_forgotten_while_it_loads_is_computed_once(desk: Desk) -> None:
    desk.demand("a3")
    desk.residency.forget("a3")
    desk.threads.run_all()
    assert desk.states("a3") == ["resident"]
    desk.residency.unpin("a3")
    assert desk.states("a3") == ["absent"]


def test_a_forgotten_adapter_stays_while_it_is_kept(desk: Desk) -> None:
    desk.residency.keep(bundle("a3"))
    desk.threads.run_all()
    desk.residency.forget("a3")
    assert desk.states("a3") == ["resident"]
    desk.residency.unkeep("a3")
    assert desk.states("a3") == ["absent"]


def test_what_cannot_fit_beside_the_kept_fails_and_says_so(desk: Desk) -> None:
    desk.residency.keep(bundle("a7"))
    desk.threads.run_all()
    desk.demand("b4")
    desk.threads.run_all()
    assert desk.failures == [("b4", "server_overloaded")]


def test_keeping_what_is_in_use_fails_a_load_that_waited_for_its_room(desk: Desk) -> None:
    for digest in ("a7", "b4"):
        desk.demand(digest)
        desk.threads.run_all()
    desk.residency.keep(bundle("a7"))
    assert desk.failures == [("b4", "server_overloaded")]


def test_an_adapter_that_turns_out_larger_waits_for_its_true_size(desk: Desk) -> None:
    desk.loader.true_sizes["b3"] = 8
    desk.demand("a4")
    desk.demand("b3")
    desk.threads.run_all()
    assert desk.states("a4", "b3") == ["resident", "loading"]
    assert desk.residency.stats().held_bytes == 4
    desk.residency.unpin("a4")
    desk.threads.run_all()
    assert desk.states("a4", "b3") == ["absent", "resident"]
    assert desk.residency.stats().held_bytes == 8


def test_after_close_loads_end_unseen(desk: Desk) -> None:
    desk.demand("a3")
    desk.residency.close()
    desk.threads.run_all()
    assert desk.states("a3") == ["loading"]


def test_the_loader_is_told_what_left_the_device(desk: Desk) -> None:
    for digest in ("a4", "b4", "c4", "a4"):
        desk.use(digest)
    assert desk.loader.num_evictions == {"a4": 1, "b4": 1}
    assert desk.loader.in_host == {"a4", "b4", "c4"}


def test_what_is_forgotten_leaves_host_memory_wherever_it_is(desk: Desk) -> None:
    desk.use("a4")
    desk.use("b4")
    desk.use("c4")  # a4 has left the device
    desk.demand("b4")  # pinned
    desk.demand("d2")  # being loaded
    for digest in ("a4", "b4", "c4", "d2"):
        desk.residency.forget(digest)
    assert desk.loader.in_host == set()
    desk.threads.run_all()
    assert desk.loader.in_host == {"d2"}  # a row waited for it, and holds it now
    for digest in ("b4", "d2"):
        desk.residency.unpin(digest)
    assert desk.loader.in_host == set()
    assert desk.states("a4", "b4", "c4", "d2") == ["absent"] * 4


def test_a_forgotten_adapter_that_finds_no_room_leaves_host_memory_too(desk: Desk) -> None:
    desk.loader.true_sizes["a3"] = 11
    desk.demand("a3")
    desk.residency.forget("a3")
    desk.threads.run_all()
    assert desk.states("a3") == ["failed"]
    desk.now = 3.0
    desk.loader.faults["b1"] = MalformedBundle("corrupt")
    desk.demand("b1")
    desk.threads.run_all()  # another failure takes old ones away
    assert desk.states("a3") == ["absent"]
    assert desk.loader.in_host == set()


def test_who_wants_many_cold_adapters_does_not_delay_another_ones(desk: Desk) -> None:
    """Neither where they are fetched nor where they are loaded."""
    for number in range(50):
        desk.demand(f"{chr(ord('α') + number)}0", "flood")
    desk.demand("c1", "calm")
    num_jobs = 0
    while desk.residency.state("c1") != "resident":
        desk.threads.jobs.pop(0)()
        num_jobs += 1
    assert num_jobs <= 2 * (2 * NUM_THREADS + 1)  # twice: what runs, what runs when that is done, its own


def test_in_the_line_for_room_tenants_take_turns(desk: Desk) -> None:
    desk.use("x10")
    desk.demand("x10")  # pinned
    for letter in "fghij":
        desk.demand(f"{letter}4", "flood")
    desk.demand("c4", "calm")
    desk.threads.run_all()
    desk.residency.unpin("x10")
    desk.threads.run_all()
    assert [digest for digest in ("f4", "c4", "g4") if desk.residency.state(digest) == "resident"] == ["f4", "c4"]


def test_a_tenant_that_uses_many_adapters_evicts_its_own(desk: Desk) -> None:
    """Once it has its share, half of the room here, whoever used theirs longer ago."""
    for digest in ("a2", "b2"):
        desk.use(digest, "few")
    for number in range(20):
        desk.use(f"{'cdefghijklmnopqrstuv'[number]}2", "many")
    assert desk.states("a2", "b2") == ["resident", "resident"]
    assert desk.states("s2", "t2", "u2", "v2") == ["absent", "resident", "resident", "resident"]


def test_who_comes_gets_a_share_from_who_has_it_all(desk: Desk) -> None:
    for digest in ("a2", "b2", "c2", "d2", "e2"):
        desk.use(digest, "first")
    for digest in ("f2", "g2", "h2"):
        desk.use(digest, "second")
    assert desk.states("a2", "b2", "c2") == ["absent"] * 3
    assert desk.states("d2", "e2", "f2", "g2", "h2") == ["resident"] * 5


def test_room_of_a_tenant_that_left_is_for_the_others(desk: Desk) -> None:
    desk.use("a4", "left")
    desk.use("b6", "busy")
    desk.now = UNUSED_S
    desk.use("b6", "busy")
    desk.use("c4", "busy")
    assert desk.states("a4", "b6", "c4") == ["absent", "resident", "resident"]


def test_an_adapter_is_in_the_share_of_who_used_it_last(desk: Desk) -> None:
    """Equal bytes are one adapter, whoever uploaded them."""
    desk.use("b3", "first")
    desk.use("a6", "first")
    desk.use("a6", "second")
    desk.use("c2", "first")
    assert desk.states("a6", "b3", "c2") == ["absent", "resident", "resident"]


def test_what_is_kept_is_in_nobodys_share(desk: Desk) -> None:
    desk.residency.keep(bundle("k6"))
    desk.threads.run_all()
    desk.use("k6", "one")
    desk.use("b2", "two")
    desk.use("a2", "one")
    desk.use("c2", "two")
    assert desk.states("k6", "a2", "b2", "c2") == ["resident", "resident", "absent", "resident"]
    desk.residency.unkeep("k6")
    desk.use("d2", "two")
    assert desk.states("k6", "a2", "c2", "d2") == ["resident", "absent", "resident", "resident"]


def in_host(desk: Desk, num_adapters: int, first: str = "α") -> list[str]:
    """Digests of so many adapters, without tensors, in host memory."""
    digests = [f"{chr(ord(first) + number)}0" for number in range(num_adapters)]
    desk.loader.in_host.update(digests)
    return digests


def test_what_is_at_hand_is_loaded_without_a_fetcher(desk: Desk) -> None:
    desk.loader.in_host.add("a3")
    assert desk.demand("a3") == "wait"
    assert desk.residency.stats().held_bytes == 3  # it has its room already
    assert len(desk.threads.jobs) == 1
    desk.threads.run_all()
    assert desk.states("a3") == ["resident"]
    assert desk.loader.fetches == []


def test_what_is_at_hand_is_loaded_together(desk: Desk) -> None:
    digests = in_host(desk, MAX_TOGETHER + 4)
    assert desk.demand_together(*digests) == ["wait"] * len(digests)
    desk.threads.run_all()
    assert desk.loader.batches == [digests[:MAX_TOGETHER], digests[MAX_TOGETHER:]]
    assert desk.states(*digests) == ["resident"] * len(digests)


def test_tenants_take_turns_in_what_is_loaded_together(desk: Desk) -> None:
    flood, calm = in_host(desk, 3 * MAX_TOGETHER), in_host(desk, 2, "a")
    desk.demand_together(*flood, tenant="flood")
    desk.demand_together(*calm, tenant="calm")
    desk.threads.jobs.pop(0)()
    assert desk.loader.batches == [[flood[0], calm[0], flood[1], calm[1], *flood[2 : MAX_TOGETHER - 2]]]


def test_loads_of_files_do_not_hold_up_what_is_at_hand(desk: Desk) -> None:
    """Many that have room wait for a loader: of whoever waits for it, and of what is kept."""
    desk.use("x10")
    desk.demand("x10")  # pinned
    desk.demand("y1", "flood")
    for number in range(20):
        desk.demand(f"{chr(ord('α') + number)}0", "flood")
        desk.residency.keep(bundle(f"{chr(ord('а') + number)}0"))
    desk.threads.run_all()
    desk.residency.unpin("x10")
    desk.loader.in_host.add("a0")
    desk.demand("a0", "flood")
    num_jobs = 0
    while desk.residency.state("a0") != "resident":
        desk.threads.jobs.pop(0)()
        num_jobs += 1
    assert num_jobs <= NUM_THREADS + 3  # what runs, one of the tenant, one of what is kept, its own


def test_one_that_fails_in_a_batch_fails_alone(desk: Desk) -> None:
    desk.loader.in_host.update(("a1", "b1", "c1"))
    desk.loader.copy_faults["b1"] = MalformedBundle("corrupt")
    desk.demand_together("a1", "b1", "c1")
    desk.threads.run_all()
    assert desk.states("a1", "b1", "c1") == ["resident", "failed", "resident"]
    assert desk.failures == [("b1", "malformed_bundle")]
    assert desk.residency.stats().held_bytes == 2


def test_what_was_dropped_from_host_memory_meanwhile_is_loaded_alone(desk: Desk) -> None:
    desk.loader.in_host.update(("a1", "b1"))
    desk.demand_together("a1", "b1")
    desk.loader.in_host.remove("a1")
    desk.threads.jobs.pop(0)()
    assert desk.states("a1", "b1") == ["loading", "resident"]
    desk.threads.run_all()
    assert desk.states("a1", "b1") == ["resident", "resident"]


def test_after_close_what_is_loaded_together_ends_unseen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = in_host(desk, MAX_TOGETHER + 2)
    desk.demand_together(*digests)
    load_at_hand = desk.loader.load_at_hand

    def close_meanwhile(batch: Sequence[str]) -> Mapping[str, FakeAdapter]:
        desk.residency.close()
        return load_at_hand(batch[1:])

    monkeypatch.setattr(desk.loader, "load_at_hand", close_meanwhile)
    desk.threads.run_all()
    assert desk.states(*digests) == ["loading"] * len(digests)
    assert len(desk.loader.batches) == 1


def test_resident_adapters_are_pinned_before_one_that_is_demanded_with_them_makes_room(desk: Desk) -> None:
    for digest in ("b5", "a5"):
        desk.use(digest)
    desk.loader.in_host.add("c5")
    assert desk.demand_together("c5", "b5") == ["wait", "ready"]
    assert desk.states("a5", "b5", "c5") == ["absent", "resident", "loading"]


def test_what_is_at_hand_and_finds_no_room_is_refused(desk: Desk) -> None:
    desk.loader.in_host.add("a11")
    assert desk.demand("a11") == "wait"
    assert desk.failures == [("a11", "bundle_too_large")]


def test_what_is_at_hand_is_kept_though_nobody_waits_for_it(desk: Desk) -> None:
    desk.loader.in_host.add("a3")
    desk.residency.keep(bundle("a3"))
    desk.threads.run_all()
    assert desk.states("a3") == ["resident"]
    assert desk.loader.fetches == []
