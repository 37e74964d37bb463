"""The engine with a fake backbone and fake loads: one answer per row whatever happens. Events, never sleeps."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from prefixrack.errors import MalformedBundle, TokenOutOfRange
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.admission import QueueLimits
from prefixrack_server.engine import MIN_PACK_TOKENS, EngineBackbone, EngineThread, loader_threads, set_threads
from prefixrack_server.engine_config import Auto, EngineConfig
from prefixrack_server.messages import BundleRef, ResidencyState, RowDone, RowFailure, RowWork
from prefixrack_server.pack_runner import Logits
from prefixrack_server.residency import Fetched, Loader

WAIT_S = 30.0  # a test that waits this long has failed; none is meant to
BAD, NAN, OUT_OF_RANGE = 13, 66, 99  # token ids


def state_of(engine: EngineThread, digest: str) -> ResidencyState:
    return asyncio.run(engine.residency(digest))


@dataclass(frozen=True)
class FakeAdapter:
    digest: str
    size_bytes: int


# Its vocabulary ends before the special tokens: rows of random tokens are computed without a fault.
SPEC = BackboneSpec(
    model_id="fake",
    architecture="bert",
    fingerprint="f" * 64,
    num_layers=1,
    num_kv_heads=1,
    head_dim=1,
    hidden_size=1,
    vocab_size=BAD,
    num_segments=1,
    max_positions=512,
    base_position=0,
)


class Activations:
    """What a pass holds in memory."""


class FakeBackbone:
    """Logits are [sum of the token ids, size of the adapter]. Token 13 raises, 66 gives NaN, 99 is out of range."""

    spec = SPEC
    dtype = torch.float32

    def __init__(self, is_asynchronous: bool) -> None:
        self.is_asynchronous = is_asynchronous
        self.packs: list[int] = []
        self.is_computing = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.on_launch: Callable[[], None] = lambda: None
        self.max_tokens: int | None = None
        self.activations: weakref.WeakSet[Activations] = weakref.WeakSet()
        self.num_alive_at_launch: list[int] = []

    def check(self, row: Row) -> None:
        if OUT_OF_RANGE in row.token_ids:
            raise TokenOutOfRange("token id 99 seen, 0 to 98 allowed")

    def launch(self, pack: Sequence[PackRow]) -> FakePending:
        self.packs.append(len(pack))
        self.num_alive_at_launch.append(len(self.activations))
        self.on_launch()
        pending = FakePending(self, list(pack))
        return pending if self.is_asynchronous else FakePending(self, [], pending.wait())

    def compute(self, pack: Sequence[PackRow]) -> list[Logits]:
        activations = Activations()
        self.activations.add(activations)
        num_tokens = sum(len(entry.row) for entry in pack)
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            raise torch.OutOfMemoryError(f"tried to allocate room for {num_tokens} tokens")
        return [self.logits(entry) for entry in pack]

    def logits(self, entry: PackRow) -> NDArray[np.float32]:
        if BAD in entry.row.token_ids:
            raise RuntimeError("bad row")
        total = np.nan if NAN in entry.row.token_ids else sum(entry.row.token_ids)
        return np.array([total, 0 if entry.adapter is None else entry.adapter.size_bytes], dtype=np.float32)


@dataclass
class FakePending:
    """Computed when it is waited for, or known already."""

    backbone: FakeBackbone
    pack: list[PackRow]
    done: list[Logits] | None = None

    def wait(self) -> list[Logits]:
        if self.done is None:
            self.backbone.is_computing.set()
            assert self.backbone.may_go_on.wait(WAIT_S)
            self.done = self.backbone.compute(self.pack)
        return self.done


@dataclass
class FakeLoader:
    """Sizes by the digest's last digits. A gate holds up the load of its digest. What was loaded is in host memory."""

    faults: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    in_host: set[str] = field(default_factory=set)

    def at_hand(self, bundle: BundleRef) -> Fetched | None:
        if bundle.digest not in self.in_host:
            return None
        return Fetched(bundle, cast("Manifest", None), None, int(bundle.digest[1:]))

    def fetch(self, bundle: BundleRef) -> Fetched:
        if bundle.digest in self.gates:
            assert self.gates[bundle.digest].wait(WAIT_S)
        if bundle.digest in self.faults:
            raise self.faults[bundle.digest]
        return Fetched(bundle, cast("Manifest", None), Path(), int(bundle.digest[1:]))

    def load(self, fetched: Fetched) -> FakeAdapter:
        digest = fetched.bundle.digest
        if digest in self.faults:
            raise self.faults[digest]
        self.in_host.add(digest)
        return FakeAdapter(digest, fetched.size_bytes)

    def load_at_hand(self, digests: Sequence[str]) -> dict[str, FakeAdapter]:
        for digest in self.faults.keys() & digests:
            raise self.faults[digest]
        return {digest: FakeAdapter(digest, int(digest[1:])) for digest in self.in_host.intersection(digests)}

    def evicted(self, digest: str) -> None:
        """It stays in host memory."""

    def forget(self, digest: str) -> None:
        self.in_host.discard(digest)


class NoSource:
    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        raise AssertionError("the fake loader has the files")


class Bench:
    """An engine with a budget of 10 bytes, and what it answered."""

    def __init__(
        self,
        *,
        threads: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        drain_timeout_s: float = WAIT_S,
        is_asynchronous: bool = False,
        max_pack_tokens: int | Auto = 8,
        queue_limits: QueueLimits | None = None,
    ) -> None:
        self.backbone = FakeBackbone(is_asynchronous)
        self.loader = FakeLoader()
        config = EngineConfig(
            max_pack_tokens=max_pack_tokens,
            max_pack_rows=4 if max_pack_tokens == 8 else 256,
            resident_bytes=10,
            drain_timeout_s=drain_timeout_s,
        )
        self.engine = EngineThread(
            cast("EngineBackbone", self.backbone),
            NoSource(),
            config,
            queue_limits=queue_limits,
            loader=cast("Loader[Adapter]", self.loader),
            threads=threads,
            clock=clock,
        )
        self.answers: queue.Queue[RowDone] = queue.Queue()
        self.deliveries: list[int] = []

    def deliver(self, answers: Sequence[RowDone]) -> None:
        self.deliveries.append(len(answers))
        for answer in answers:
            self.answers.put(answer)

    def collect(self, num_answers: int) -> dict[int, RowDone]:
        got = [self.answers.get(timeout=WAIT_S) for _ in range(num_answers)]
        return {answer.row_id: answer for answer in got}

    def codes(self, num_answers: int) -> dict[int, str]:
        return {row_id: code_of(answer) for row_id, answer in self.collect(num_answers).items()}


def code_of(answer: RowDone) -> str:
    assert (answer.logits is None) != (answer.failure is None)
    return "ok" if answer.failure is None else answer.failure.code


def work(row_id: int, *token_ids: int, digest: str | None = None, **options: Any) -> RowWork:
    token_ids = token_ids or (1,)
    bundle = None if digest is None else ref(digest)
    return RowWork(row_id, Row(token_ids, (0,) * len(token_ids), 0), bundle, **options)


def ref(digest: str) -> BundleRef:
    return BundleRef(digest, "m", "t")


@pytest.fixture(params=["packs at once", "packs on the side"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A started engine, whose backbone computes a pack in its launch (a CPU) or beside it (a GPU)."""
    bench = Bench(is_asynchronous=request.param == "packs on the side")
    bench.engine.start(bench.deliver)
    yield bench
    bench.backbone.may_go_on.set()
    for gate in bench.loader.gates.values():
        gate.set()
    bench.engine.stop()


def test_each_row_gets_the_logits_of_its_own_adapter(bench: Bench) -> None:
    bench.engine.submit([work(1, 2, 3, digest="a4"), work(2, 5, digest="b5"), work(3, 7)])
    answers = bench.collect(3)
    seen = {row_id: cast("Logits", answer.logits).tolist() for row_id, answer in answers.items()}
    assert seen == {1: [5.0, 4.0], 2: [5.0, 5.0], 3: [7.0, 0.0]}
    assert all(answer.queue_ms >= 0 and answer.compute_ms >= 0 for answer in answers.values())


def test_a_slow_load_delays_nobody_else(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.submit([work(1, digest="a1"), work(2, digest="b1"), work(3)])
    assert set(bench.collect(2)) == {2, 3}
    assert state_of(bench.engine, "a1") == "loading"
    bench.loader.gates["a1"].set()
    assert bench.codes(1) == {1: "ok"}


def test_slow_loads_delay_nobody_else_though_there_are_more_than_loaders(bench: Bench) -> None:
    num_slow = EngineConfig().num_loaders + 1
    for index in range(num_slow):
        bench.loader.gates[f"s{index}"] = threading.Event()
        bench.engine.submit([work(index, digest=f"s{index}")])
    bench.engine.submit([work(100, digest="b5")])
    assert set(bench.codes(1)) == {100}
    for gate in bench.loader.gates.values():
        gate.set()
    assert set(bench.codes(num_slow)) == set(range(num_slow))


def test_what_arrives_during_a_pack_goes_together_into_the_next(bench: Bench) -> None:
    bench.backbone.may_go_on.clear()
    bench.engine.submit([work(1)])
    assert bench.backbone.is_computing.wait(WAIT_S)
    bench.engine.submit([work(2)])
    bench.engine.submit([work(3), work(4)])
    bench.backbone.may_go_on.set()
    bench.collect(4)
    assert bench.backbone.packs == bench.deliveries == [1, 3]


def test_one_bad_row_fails_alone(bench: Bench) -> None:
    bench.engine.submit([work(1), work(2, BAD), work(3), work(4, NAN)])
    assert bench.codes(4) == {1: "ok", 2: "internal_error", 3: "ok", 4: "nonfinite_output"}
    bench.engine.submit([work(5)])
    assert bench.codes(1) == {5: "ok"}


def test_out_of_memory_halves_the_pack_and_the_smaller_size_is_remembered(bench: Bench) -> None:
    bench.backbone.max_tokens = 5
    bench.engine._scheduler.max_pack_tokens = 1000
    bench.engine.submit([work(row_id, 1, 1) for row_id in range(4)])
    assert set(bench.codes(4).values()) == {"ok"}
    assert bench.backbone.packs == [4, 2, 2]
    assert bench.engine._scheduler.max_pack_tokens == MIN_PACK_TOKENS
    bench.engine.submit([work(9, *(1,) * 6)])
    assert bench.codes(1) == {9: "server_overloaded"}


def test_a_pack_that_failed_leaves_nothing_in_memory_beside_its_halves() -> None:
    bench = Bench()
    bench.backbone.max_tokens = 1
    bench.engine.start(bench.deliver)
    bench.engine.submit([work(1), work(2)])
    assert set(bench.codes(2).values()) == {"ok"}
    assert bench.backbone.num_alive_at_launch == [0, 0, 0]
    bench.engine.stop()


def test_out_of_range_rows_never_reach_a_pack(bench: Bench) -> None:
    bench.engine.submit([work(1, OUT_OF_RANGE)])
    assert bench.codes(1) == {1: "token_out_of_range"}
    assert bench.backbone.packs == []


def test_a_failed_load_answers_all_its_rows(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.loader.faults["a1"] = MalformedBundle("sha256 differs")
    bench.engine.submit([work(1, digest="a1"), work(2, digest="a1")])
    bench.loader.gates["a1"].set()
    assert bench.codes(2) == {1: "malformed_bundle", 2: "malformed_bundle"}
    assert state_of(bench.engine, "a1") == "failed"
    assert bench.engine.stats().num_failed_loads == 1


def test_a_row_past_its_deadline_is_answered_while_its_adapter_still_loads(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.submit([work(1, digest="a1", deadline=0.0)])
    assert bench.codes(1) == {1: "deadline_exceeded"}
    assert bench.backbone.packs == []


def test_a_refusal_waits_for_no_pack() -> None:
    bench = Bench(queue_limits=QueueLimits(rows=2, tokens=100))
    bench.engine.start(bench.deliver)
    bench.backbone.may_go_on.clear()
    bench.engine.submit([work(1)])
    assert bench.backbone.is_computing.wait(WAIT_S)
    bench.engine.submit([work(2, tenant="a"), work(3, tenant="a"), work(4, tenant="a", deadline=1e9)])
    assert bench.codes(1) == {4: "server_overloaded"}
    bench.engine.submit([work(5, tenant="b"), work(6, tenant="a")])
    assert bench.codes(1) == {6: "queue_share_exceeded"}
    bench.backbone.may_go_on.set()
    assert set(bench.codes(4)) == {1, 2, 3, 5}
    bench.engine.stop()


@pytest.mark.parametrize("is_asynchronous", [False, True])
def test_of_a_long_queue_what_expires_never_reaches_the_device(is_asynchronous: bool) -> None:
    turns = Turns(is_asynchronous)
    late = [work(row_id, 1, 2, deadline=1.0) for row_id in range(20)]
    turns.engine.submit([*late, work(20, 1, 2, deadline=9.0), work(21, 1, 2)])
    turns.engine.submit([work(22, 1, 2, digest="a4", deadline=1.0), work(23, 1, 2, digest="a4")])
    answers = turns.turn()  # four of the late ones are in time
    turns.now = 1.0
    answers += turns.turn() + turns.turn()
    codes = {answer.row_id: code_of(answer) for answer in answers}
    assert [row_id for row_id, code in codes.items() if code == "deadline_exceeded"] == [*range(4, 20), 22]
    assert sorted(row_id for row_id, code in codes.items() if code == "ok") == [*range(4), 20, 21, 23]
    assert sum(turns.backbone.packs) == 7
    assert (turns.engine.stats().num_expired, turns.engine.stats().num_late) == (17, 0)


def test_the_speed_is_that_of_full_packs() -> None:
    turns = Turns()
    turns.backbone.on_launch = lambda: setattr(turns, "now", turns.now + 0.5)
    turns.engine.submit([work(1, 1, 1)])
    turns.turn()
    assert turns.engine.stats().tokens_per_s == 0
    turns.engine.submit([work(row_id, *(1,) * 8) for row_id in range(2, 5)])
    turns.turn()
    assert turns.engine.stats().tokens_per_s == 16


def test_cancelled_rows_are_not_computed(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.submit([work(1, digest="a1"), work(2, digest="a1")])
    bench.engine.cancel([1, 77])
    bench.loader.gates["a1"].set()
    assert bench.codes(1) == {2: "ok"}
    assert bench.backbone.packs == [1]


def test_kept_resident_without_traffic(bench: Bench) -> None:
    bench.engine.keep_resident(ref("a4"), keep=True)
    bench.engine.submit([work(1, digest="a4")])
    assert bench.codes(1) == {1: "ok"}
    for row_id, digest in enumerate(("b4", "c4", "d4"), start=2):
        bench.engine.submit([work(row_id, digest=digest)])
        assert bench.codes(1) == {row_id: "ok"}
    assert state_of(bench.engine, "a4") == "resident"
    bench.engine.keep_resident(ref("a4"), keep=False)
    bench.engine.submit([work(9, digest="e9")])
    assert bench.codes(1) == {9: "ok"}
    assert state_of(bench.engine, "a4") == "absent"


def test_a_receiver_that_raises_does_not_end_the_engine() -> None:
    bench = Bench()
    is_first = iter([True])

    def deliver(answers: Sequence[RowDone]) -> None:
        bench.deliver(answers)
        if next(is_first, False):
            raise RuntimeError("the event loop is closed")

    bench.engine.start(deliver)
    bench.engine.submit([work(1)])
    assert bench.codes(1) == {1: "ok"}
    bench.engine.submit([work(2)])
    assert bench.codes(1) == {2: "ok"}
    bench.engine.stop()


def test_stop_finishes_what_is_queued_and_refuses_the_rest(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.submit([work(1, digest="a1"), work(2)])
    stopping = threading.Thread(target=bench.engine.stop)
    stopping.start()
    bench.loader.gates["a1"].set()
    stopping.join(WAIT_S)
    assert bench.codes(2) == {1: "ok", 2: "ok"}
    bench.engine.submit([work(3)])
    assert bench.codes(1) == {3: "not_ready"}
    assert not bench.engine.stats().ready


def test_stop_gives_up_after_the_drain_timeout() -> None:
    bench = Bench(drain_timeout_s=0.0)
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.start(bench.deliver)
    bench.engine.submit([work(1, digest="a1")])
    bench.engine.stop()
    bench.loader.gates["a1"].set()
    assert bench.codes(1) == {1: "not_ready"}


def test_stop_in_a_hurry_leaves_what_is_queued(bench: Bench) -> None:
    bench.loader.gates["a1"] = threading.Event()
    bench.engine.submit([work(1, digest="a1")])
    bench.engine.hurry()
    bench.engine.stop()
    assert bench.codes(1) == {1: "not_ready"}


def test_stop_without_start_ends_at_once() -> None:
    bench = Bench()
    bench.engine.stop()
    assert not bench.engine.stats().ready


def test_the_heartbeat_goes_on_when_idle(bench: Bench) -> None:
    before = bench.engine.stats().heartbeat
    bench.engine.submit([work(1)])
    bench.collect(1)
    bench.engine.stop()
    assert bench.engine.stats().heartbeat > before


def test_what_is_in_host_memory_is_not_called_absent() -> None:
    bench = Bench(is_asynchronous=True)  # as on a GPU: a CPU's host memory is the device's
    bench.engine._host.put("a4", cast("Adapter", FakeAdapter("a4", 4)), 4)
    assert (state_of(bench.engine, "a4"), state_of(bench.engine, "a5")) == ("host", "absent")
    bench.engine.start(bench.deliver)
    bench.engine.submit([work(1, digest="a4")])
    bench.collect(1)
    assert state_of(bench.engine, "a4") == "resident"
    bench.engine.stop()


def test_stats_count_what_was_done(bench: Bench) -> None:
    bench.engine.submit([work(1, 1, 2, 3, digest="a4"), work(2, OUT_OF_RANGE)])
    bench.collect(2)
    bench.engine.stop()
    stats = bench.engine.stats()
    assert (stats.num_packs, stats.num_rows, stats.num_tokens, stats.num_loads) == (1, 1, 3, 1)
    assert (stats.num_resident, stats.resident_bytes, stats.budget_bytes) == (1, 4, 10)
    assert (stats.num_queued_rows, stats.num_queued_tokens) == (0, 0)


class ManualThreads(Executor):
    """Keeps loader jobs until the test runs them."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future


class Turns(Bench):
    """An engine whose thread never runs: the test makes its turns and runs its loader jobs."""

    def __init__(self, is_asynchronous: bool = False) -> None:
        self.now = 0.0
        self.loads = ManualThreads()
        super().__init__(threads=self.loads, clock=lambda: self.now, is_asynchronous=is_asynchronous)
        self.engine._deliver = self.deliver

    def delivered(self) -> list[RowDone]:
        return [self.answers.get() for _ in range(self.answers.qsize())]

    def turn(self) -> list[RowDone]:
        while self.loads.jobs:
            self.loads.jobs.pop(0)()
        self.engine.step()
        return self.delivered()


def test_traffic_that_never_lets_go_of_its_adapters_does_not_starve_others() -> None:
    """Two adapters fill the budget, and more rows come for them than the packs can hold, so they are always wanted."""
    turns = Turns()
    answered: list[int] = []
    for row_id in range(0, 360, 6):
        for index, digest in enumerate(("a5", "b5") * 3):
            turns.engine.submit([work(row_id + index, digest=digest)])
        if row_id == 60:
            turns.engine.submit([work(9_000, digest="c5"), work(9_001, digest="d9")])
        answered += [answer.row_id for answer in turns.turn()]
    assert {9_000, 9_001} <= set(answered)
    assert len(answered) > 120  # the others went on meanwhile


@pytest.mark.parametrize("leave", ["expire", "cancel"])
def test_a_row_that_leaves_uncomputed_lets_go_of_its_adapter(leave: str) -> None:
    turns = Turns()
    turns.engine.submit([work(1, digest="a9")])
    turns.turn()
    turns.engine.submit([work(2, digest="a9", deadline=1.0)])
    if leave == "expire":
        turns.now = 1.0
    else:
        turns.engine.cancel([2])
    turns.engine.submit([work(3, digest="b9")])
    answers = turns.turn() + turns.turn()
    assert [answer.row_id for answer in answers if answer.logits is not None] == [3]
    assert state_of(turns.engine, "a9") == "absent"


def test_a_row_whose_adapter_is_in_host_memory_is_answered_without_a_fetcher() -> None:
    turns = Turns()
    turns.loader.in_host.add("a4")
    turns.engine.submit([work(1, 2, 3, digest="a4")])
    assert len(turns.loads.jobs) == 1
    turns.loads.jobs.pop(0)()
    turns.engine.step()
    (answer,) = turns.delivered()
    assert cast("Logits", answer.logits).tolist() == [5.0, 4.0]


DIGESTS = ("a1", "b4", "c5", "d9", "e10", "f11")


class EngineMachine(RuleBasedStateMachine):
    """Any interleaving of rows, loads, failures, wishes and turns: one answer per row, and never over the budget."""

    is_asynchronous = False

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(self.is_asynchronous)
        self.submitted: dict[int, RowWork] = {}
        self.cancelled: set[int] = set()
        self.answered: dict[int, RowDone] = {}

    @rule(
        digest=st.none() | st.sampled_from(DIGESTS),
        token_ids=st.lists(st.sampled_from([1, 2, BAD, NAN, OUT_OF_RANGE]), min_size=1, max_size=10),
        priority=st.integers(0, 1),
        patience=st.none() | st.integers(1, 2),
    )
    def submit(self, digest: str | None, token_ids: list[int], priority: int, patience: int | None) -> None:
        deadline = None if patience is None else self.turns.now + patience
        row = work(len(self.submitted), *token_ids, digest=digest, priority=priority, deadline=deadline)
        self.submitted[row.row_id] = row
        self.turns.engine.submit([row])

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        row_id = data.draw(st.integers(0, len(self.submitted) - 1))
        self.turns.engine.cancel([row_id])
        self.cancelled.add(row_id)

    @precondition(lambda self: self.turns.loads.jobs)
    @rule(data=st.data())
    def run_a_load_job(self, data: st.DataObject) -> None:
        jobs = self.turns.loads.jobs
        jobs.pop(data.draw(st.integers(0, len(jobs) - 1)))()

    @rule(digest=st.sampled_from(DIGESTS), is_broken=st.booleans())
    def break_or_mend(self, digest: str, is_broken: bool) -> None:
        self.turns.loader.faults.pop(digest, None)
        if is_broken:
            self.turns.loader.faults[digest] = MalformedBundle("corrupt")

    @rule(digest=st.sampled_from(DIGESTS))
    def drop_from_host_memory(self, digest: str) -> None:
        self.turns.loader.in_host.discard(digest)

    @rule(digest=st.sampled_from(DIGESTS), keep=st.booleans())
    def wish(self, digest: str, keep: bool) -> None:
        self.turns.engine.keep_resident(ref(digest), keep)

    @rule(digest=st.sampled_from(DIGESTS))
    def forget(self, digest: str) -> None:
        self.turns.engine.forget(digest)

    @rule()
    def pass_time(self) -> None:
        self.turns.now += 1

    @rule()
    def step(self) -> None:
        self.turns.engine.step()
        for answer in self.turns.delivered():
            assert answer.row_id not in self.answered
            self.answered[answer.row_id] = answer
            assert_right(answer, self.submitted[answer.row_id])

    @invariant()
    def budget_holds(self) -> None:
        stats = self.turns.engine.stats()
        assert 0 <= stats.resident_bytes <= stats.budget_bytes

    def teardown(self) -> None:
        """With every load able to finish, a few turns answer everything: nothing is starved or lost."""
        for _ in range(4 * len(self.submitted) + 8):
            while self.turns.loads.jobs:
                self.turns.loads.jobs.pop(0)()
            self.step()
        assert self.submitted.keys() - self.answered.keys() <= self.cancelled
        assert self.turns.engine.stats().num_queued_rows == 0
        assert all(entry.num_pins == 0 for entry in self.turns.engine._residency._entries.values())


def assert_right(answer: RowDone, row: RowWork) -> None:
    tokens = row.row.token_ids
    if isinstance(answer.failure, RowFailure):
        allowed = {"deadline_exceeded", "malformed_bundle", "bundle_too_large", "server_overloaded"}
        faults = {BAD: "internal_error", NAN: "nonfinite_output", OUT_OF_RANGE: "token_out_of_range"}
        assert answer.failure.code in allowed | {code for token, code in faults.items() if token in tokens}
        return
    size = 0 if row.bundle is None else int(row.bundle.digest[1:])
    assert cast("Logits", answer.logits).tolist() == [sum(tokens), size]


class AsynchronousEngineMachine(EngineMachine):
    """With a pack under way while the next is taken, as on a GPU."""

    is_asynchronous = True


TestEngineMachine = EngineMachine.TestCase
TestAsynchronousEngineMachine = AsynchronousEngineMachine.TestCase
for case in (TestEngineMachine, TestAsynchronousEngineMachine):
    case.settings = settings(max_examples=60, stateful_step_count=50)


def test_loaders_do_not_take_the_engines_threads() -> None:
    """Torch's number of threads is process-wide until a thread has used it: the engine's must hold all the same."""
    seen: list[int] = []
    with loader_threads(1) as loaders:
        engine_is_set, loader_is_set = threading.Event(), threading.Event()

        def compute() -> None:
            set_threads(2)
            engine_is_set.set()
            loader_is_set.wait()
            seen.append(torch.get_num_threads())

        thread = threading.Thread(target=compute)
        thread.start()
        engine_is_set.wait()
        seen.append(loaders.submit(torch.get_num_threads).result())
        loader_is_set.set()
        thread.join()
    assert seen == [1, 2]


def test_the_size_of_packs_is_measured_before_the_engine_is_ready() -> None:
    bench = Bench(max_pack_tokens="auto")
    bench.backbone.may_go_on.clear()
    bench.engine.start(bench.deliver)
    assert bench.backbone.is_computing.wait(WAIT_S)
    assert not bench.engine.stats().ready
    bench.engine.submit([work(1, 5)])
    bench.backbone.may_go_on.set()
    assert bench.codes(1) == {1: "ok"}
    stats = bench.engine.stats()
    assert stats.ready
    assert (stats.num_packs, stats.num_rows) == (1, 1)  # what was tried is no traffic
    assert len(bench.backbone.packs) > 1
    bench.engine.stop()


def test_an_engine_that_is_stopped_while_it_measures_tries_no_more_packs() -> None:
    bench = Bench(max_pack_tokens="auto")
    bench.backbone.may_go_on.clear()
    bench.engine.start(bench.deliver)
    assert bench.backbone.is_computing.wait(WAIT_S)
    bench.engine.submit([work(1, 5)])
    bench.engine.hurry()
    bench.backbone.may_go_on.set()
    bench.engine.stop()
    assert bench.codes(1) == {1: "not_ready"}
    assert len(bench.backbone.packs) == 1
