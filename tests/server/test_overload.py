"""The real engine under overload, in simulated time: a flood leaves the others their latency, a deadline its goodput.

A pack takes a fixed time and one per token, as measured for a small backbone on a CPU; nothing here depends on how fast
this machine is. `benchmarks/overload.py` is the same over HTTP and in real time.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_server.admission import QueueLimits
from prefixrack_server.engine import EngineBackbone, EngineThread
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.messages import RowDone, RowWork
from prefixrack_server.pack_runner import Logits

PACK_S = 0.004
TOKENS_PER_S = 8000.0
CAPACITY_ROWS_PER_S = 270  # of natural lengths, in full packs
NUM_CALM = 3
DEADLINE_S = 1.0


class Arrival(NamedTuple):
    at: float
    tenant: str
    row: Row


@dataclass
class SimulatedServer:
    """An engine whose clock goes on by what its packs take; rows come in while one is computed."""

    arrivals: list[Arrival]
    deadline_s: float | None = None
    is_asynchronous: bool = False
    now: float = 0.0
    sent: dict[int, Arrival] = field(default_factory=dict)
    done_at: dict[int, float] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    max_queued: int = 0
    num_computed_too_late: int = 0

    def __post_init__(self) -> None:
        heapq.heapify(self.arrivals)
        self.engine = EngineThread(
            cast("EngineBackbone", self),
            cast("Any", None),
            EngineConfig(),
            loader=cast("Any", object()),  # rows without an adapter need none
            queue_limits=QueueLimits(8192, 262_144),
            clock=lambda: self.now,
        )
        self.engine._deliver = self.deliver

    def run(self) -> SimulatedServer:
        while self.arrivals or self.engine.stats().num_queued_rows:
            if not self.engine.stats().num_queued_rows:
                self.pass_time(self.arrivals[0].at)
            self.engine.step()
        return self

    def check(self, row: Row) -> None:
        """Every row is good."""

    def launch(self, pack: Sequence[PackRow]) -> SimulatedServer:
        num_tokens = sum(len(entry.row) for entry in pack)
        self.num_rows = len(pack)
        self.started_at = self.now
        self.pass_time(self.now + PACK_S + num_tokens / TOKENS_PER_S)
        return self

    def wait(self) -> list[Logits]:
        return [np.zeros(2, dtype=np.float32)] * self.num_rows

    def deliver(self, answers: Iterable[RowDone]) -> None:
        for answer in answers:
            self.codes["ok" if answer.failure is None else answer.failure.code] += 1
            if answer.failure is None:
                self.done_at[answer.row_id] = self.now
                started_at = self.now - answer.compute_ms / 1e3
                is_late = self.deadline_s is not None and started_at > self.sent[answer.row_id].at + self.deadline_s
                self.num_computed_too_late += is_late

    def pass_time(self, until: float) -> None:
        while self.arrivals and self.arrivals[0].at <= until:
            arrival = heapq.heappop(self.arrivals)
            self.now = arrival.at
            row_id = len(self.sent)
            self.sent[row_id] = arrival
            deadline = None if self.deadline_s is None else arrival.at + self.deadline_s
            self.engine.submit([RowWork(row_id, arrival.row, None, deadline, tenant=arrival.tenant)])
            self.max_queued = max(self.max_queued, self.engine.stats().num_queued_rows)
        self.now = until

    def latencies(self) -> Mapping[str, list[float]]:
        seconds: defaultdict[str, list[float]] = defaultdict(list)
        for row_id, done_at in self.done_at.items():
            seconds[self.sent[row_id].tenant].append(done_at - self.sent[row_id].at)
        return seconds

    def goodput_per_s(self, from_s: float, to_s: float) -> float:
        assert self.deadline_s is not None
        in_time = (done_at - self.sent[row_id].at <= self.deadline_s for row_id, done_at in self.done_at.items())
        counted = [from_s <= done_at < to_s for done_at in self.done_at.values()]
        return sum(good and is_counted for good, is_counted in zip(in_time, counted, strict=True)) / (to_s - from_s)


def arriving(rates: Mapping[str, float], seconds: float, seed: int = 0) -> list[Arrival]:
    """Poisson arrivals of rows of natural lengths."""
    random = np.random.default_rng(seed)
    arrivals = []
    for tenant, rate_per_s in rates.items():
        gaps = random.exponential(1 / rate_per_s, int(rate_per_s * seconds))
        lengths = np.clip(random.lognormal(3.2, 0.6, len(gaps)).round(), 6, 128).astype(int)
        for at, length in zip(np.cumsum(gaps), lengths, strict=True):
            arrivals.append(Arrival(float(at), tenant, Row((1,) * int(length), (0,) * int(length), 0)))
    return arrivals


def calm_and(flood_load: float) -> dict[str, float]:
    share = CAPACITY_ROWS_PER_S / (1 + NUM_CALM)
    rates = {f"calm-{number}": 0.8 * share for number in range(NUM_CALM)}
    return rates | ({"flood": flood_load * share} if flood_load else {})


def calm_p99_s(flood_load: float) -> float:
    latencies = SimulatedServer(arriving(calm_and(flood_load), seconds=40)).run().latencies()
    calm = [seconds for tenant, of_tenant in latencies.items() if tenant != "flood" for seconds in of_tenant]
    return float(np.percentile(calm, 99))


def test_one_tenant_at_five_times_its_share_costs_the_others_twice_their_latency_at_most() -> None:
    """Without a flood they have a machine that is two fifths idle; beside it, packs are as long as they may be."""
    unloaded_s, flooded_s = calm_p99_s(0), calm_p99_s(5)
    assert flooded_s <= 2.2 * unloaded_s, f"{flooded_s:.3f} s instead of {unloaded_s:.3f} s"


def test_a_flood_waits_for_itself() -> None:
    latencies = SimulatedServer(arriving(calm_and(5), seconds=20)).run().latencies()
    assert np.median(latencies["flood"]) > 5 * np.percentile(latencies["calm-0"], 99)


@pytest.mark.parametrize("load", [3.0, 10.0])
def test_three_times_the_capacity_leaves_the_goodput(load: float) -> None:
    def offered(times: float) -> SimulatedServer:
        rates = {"one": times * CAPACITY_ROWS_PER_S}
        return SimulatedServer(arriving(rates, seconds=20), deadline_s=DEADLINE_S).run()

    peak = max(offered(times).goodput_per_s(2, 15) for times in (0.8, 0.9, 1.0, 1.2))
    server = offered(load)
    assert server.goodput_per_s(2, 15) >= 0.9 * peak
    assert server.num_computed_too_late == 0
    assert server.max_queued < 4 * DEADLINE_S * CAPACITY_ROWS_PER_S
    assert set(server.codes) <= {"ok", "server_overloaded", "deadline_exceeded"}
    assert server.codes.total() == len(server.sent)
