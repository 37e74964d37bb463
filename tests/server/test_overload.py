"""The real engine under overload, in simulated time: a flood leaves the others their latency, a deadline its goodput.

A pack takes a fixed time and one per token, as measured for backbones on CPUs; nothing here depends on how fast this
machine is. `benchmarks/overload.py` is the same over HTTP and in real time.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch

from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_server.admission import QueueLimits
from prefixrack_server.engine import EngineBackbone, EngineThread
from prefixrack_server.engine_config import USUAL_PACK_TOKENS, EngineConfig
from prefixrack_server.messages import RowDone, RowWork
from prefixrack_server.pack_runner import Logits

MEAN_ROW_LEN = 29.3  # of natural lengths
NUM_CALM = 3
DEADLINE_S = 1.0
SETTLING_S = 2.0


class Machine(NamedTuple):
    """What packs take on it."""

    pack_s: float
    tokens_per_s: float
    dtype: torch.dtype = torch.float32

    def seconds(self, num_tokens: int) -> float:
        return self.pack_s + num_tokens / self.tokens_per_s

    @property
    def rows_per_s(self) -> float:
        """Of natural lengths, in full packs."""
        return USUAL_PACK_TOKENS / self.seconds(USUAL_PACK_TOKENS) / MEAN_ROW_LEN


SMALL = Machine(0.0025, 10_000)
MACHINES = {
    "MiniLM, one thread": SMALL,
    "MiniLM, slower Python": Machine(0.004, 8000),
    "MiniLM in bfloat16": Machine(0.0025, 20_000, torch.bfloat16),
    "large BERT": Machine(0.010, 1000),
}


class Arrival(NamedTuple):
    at: float
    tenant: str
    row: Row


@dataclass
class SimulatedServer:
    """An engine whose clock goes on by what its packs take; rows come in while one is computed."""

    arrivals: list[Arrival]
    machine: Machine = SMALL
    deadline_s: float | None = None
    is_asynchronous: bool = False
    now: float = 0.0
    sent: dict[int, Arrival] = field(default_factory=dict)
    done_at: dict[int, float] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)
    pack_tokens: list[int] = field(default_factory=list)
    max_queued: int = 0
    num_computed_too_late: int = 0

    def __post_init__(self) -> None:
        heapq.heapify(self.arrivals)
        self.engine = EngineThread(
            cast("EngineBackbone", self),
            cast("Any", None),
            EngineConfig(num_threads=1),
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

    @property
    def dtype(self) -> torch.dtype:
        return self.machine.dtype

    def check(self, row: Row) -> None:
        """Every row is good."""

    def launch(self, pack: Sequence[PackRow]) -> SimulatedServer:
        num_tokens = sum(len(entry.row) for entry in pack)
        self.num_rows = len(pack)
        self.started_at = self.now
        self.pack_tokens.append(num_tokens)
        self.pass_time(self.now + self.machine.seconds(num_tokens))
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
        """Without those of the first rows, which come to an engine that has met nobody yet."""
        seconds: defaultdict[str, list[float]] = defaultdict(list)
        for row_id, done_at in self.done_at.items():
            if self.sent[row_id].at > SETTLING_S:
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


def flooded(machine: Machine, flood_load: float, num_rows: int) -> SimulatedServer:
    """Three tenants at four fifths of their shares beside one at so many times its own: so many rows of the three."""
    share = machine.rows_per_s / (1 + NUM_CALM)
    rates = {f"calm-{number}": 0.8 * share for number in range(NUM_CALM)}
    rates |= {"flood": flood_load * share} if flood_load else {}
    return SimulatedServer(arriving(rates, num_rows / (0.8 * NUM_CALM * share)), machine).run()


def calm_p99_s(server: SimulatedServer) -> float:
    latencies = server.latencies()
    calm = [seconds for tenant, of_tenant in latencies.items() if tenant != "flood" for seconds in of_tenant]
    return float(np.percentile(calm, 99))


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_one_tenant_at_five_times_its_share_costs_the_others_half_their_latency_at_most(machine: Machine) -> None:
    unloaded_s, flooded_s = (calm_p99_s(flooded(machine, flood_load, 10_000)) for flood_load in (0, 5))
    assert flooded_s <= 1.5 * unloaded_s, f"{flooded_s:.3f} s instead of {unloaded_s:.3f} s"


def test_where_small_packs_compute_too_little_for_all_they_grow() -> None:
    """On a machine where a pack's own cost is twice what their size was made for, all would wait ever longer."""
    machine = Machine(0.008, 8000)
    unloaded_s, flooded_s = (calm_p99_s(flooded(machine, flood_load, 8000)) for flood_load in (0, 5))
    assert flooded_s <= 2 * unloaded_s, f"{flooded_s:.3f} s instead of {unloaded_s:.3f} s"


def test_a_flood_waits_for_itself_and_gets_what_the_others_leave() -> None:
    server = flooded(SMALL, 5, 4000)
    latencies = server.latencies()
    assert np.median(latencies["flood"]) > 5 * np.percentile(latencies["calm-0"], 99)
    until_s = max(arrival.at for arrival in server.sent.values())
    num_flood = sum(at <= until_s and server.sent[row_id].tenant == "flood" for row_id, at in server.done_at.items())
    assert num_flood / until_s > SMALL.rows_per_s / (1 + NUM_CALM)


def test_a_tenant_alone_has_full_packs() -> None:
    server = SimulatedServer(arriving({"one": 3 * SMALL.rows_per_s}, seconds=10)).run()
    assert np.median(server.pack_tokens) > 0.95 * USUAL_PACK_TOKENS
    assert len(server.done_at) / max(server.done_at.values()) > 0.98 * SMALL.rows_per_s


@pytest.mark.parametrize("load", [3.0, 10.0])
@pytest.mark.parametrize("num_tenants", [1, 4])
def test_three_times_the_capacity_leaves_the_goodput(load: float, num_tenants: int) -> None:
    def offered(times: float) -> SimulatedServer:
        rates = {str(tenant): times * SMALL.rows_per_s / num_tenants for tenant in range(num_tenants)}
        return SimulatedServer(arriving(rates, seconds=15), deadline_s=DEADLINE_S).run()

    peak = max(offered(times).goodput_per_s(2, 12) for times in (0.8, 0.9, 1.0, 1.2))
    server = offered(load)
    assert server.goodput_per_s(2, 12) >= 0.9 * peak
    assert server.num_computed_too_late == server.engine.stats().num_late == 0
    assert server.max_queued < 4 * DEADLINE_S * SMALL.rows_per_s
    assert set(server.codes) <= {"ok", "server_overloaded", "deadline_exceeded"}
    assert server.codes.total() == len(server.sent)
