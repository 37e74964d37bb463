"""More than a server can do: one tenant floods it, everybody together offers three times its capacity, it is restarted.

Prints a JSON line for each part and exits with 1 where one misses its bound; see README.md here. All load is open-loop.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer

from machine import device_name, git_commit
from open_loop import Answer, Call, Latencies, arrivals, message_of, run_calls
from options import Backbone, Commit, Rounds, SliceSeconds
from prefixrack import Client
from prefixrack_server.config import RegistryConfig
from prefixrack_server.registry.blobs import LocalBlobStore
from prefixrack_server.registry.registry import Registry
from server_process import NO_KEY, Server, check_wrk, path_of, run_wrk, serving
from stand import Stand, print_line, stand
from throughput import server_settings
from turns import Contestant, Spread, stderr, take_turns
from workload import RandomAdapter, Request

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from rolling_restart import RestartPlan, run_rolling_restart

PARTS = ("flood", "overload", "restart")
NUM_CALM = 3
CALM_LOAD = 0.8  # of its share, for each tenant that does not flood
FLOOD_LOAD = 5.0
OVERLOADS = (0.9, 1.0, 3.0)
DEADLINE_MS = 1000
CONNECTIONS = 64
CAPACITY_S = 4
SETTLING_S = 1.0  # of an overload, which is not counted
SAMPLE_S = 0.25
# The bounds.
MAX_P99_RATIO = 1.5
MIN_GOODPUT = 0.9


@dataclass(frozen=True)
class Tenant:
    """Its messages are predictions with adapters of its own."""

    name: str
    key: str
    messages: Sequence[bytes]


@dataclass
class Watch:
    """The server's memory while it is loaded."""

    server: Server
    rss_bytes: list[int] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        is_over = threading.Event()

        def sample() -> None:
            while not is_over.wait(SAMPLE_S):
                self.rss_bytes.append(self.server.rss_bytes())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"One or more of {', '.join(PARTS)}; all by default.")] = None,
    num_adapters: int = 30,
    rows: Annotated[int, typer.Option(help="Different requests of each tenant, sent in turn.")] = 128,
    dtype: str = "float32",
    threads: Annotated[int, typer.Option(help="Of the engine. The load and HTTP need a core for themselves.")] = 1,
    rounds: Rounds = 5,
    seconds: SliceSeconds = 10.0,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Run the parts, each against a server of its own."""
    parts = part or list(PARTS)
    bounds: dict[str, bool] = {}
    if set(parts) & {"flood", "overload"}:
        check_wrk()
        with stand(backbone, dtype=dtype, device="cpu", threads=threads, seed=seed, commit=commit) as here:
            adapters = here.adapters(num_adapters)
            setup = {"num_adapters": num_adapters, "rows": rows, "rounds": rounds, "seconds": seconds}
            for name, run in (("flood", flood), ("overload", overload)):
                if name in parts:
                    result = run(here, adapters, rows, rounds, seconds)
                    here.emit(f"overload-{name}", setup, result)
                    bounds[name] = result["is_within_bounds"]
    if "restart" in parts:
        bounds["restart"] = restart(commit)
    missed = [name for name, is_kept in bounds.items() if not is_kept]
    if missed:
        stderr.print(f"bounds missed: {', '.join(missed)}")
        raise typer.Exit(1)


def flood(here: Stand, adapters: Sequence[RandomAdapter], rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Latencies of tenants within their shares, beside one that sends five times its own and without it."""
    state = here.work / "flood"
    state.mkdir()
    admin = asyncio.run(first_admin_key(state))
    random = np.random.default_rng(here.seed)
    with serving(here.folder, None, here.work, server_settings(here), state=state, auth="keys") as server:
        requests = here.requests(here.texts(rows), adapters, "uniform")
        flooder, *calm = [make_tenant(server, admin, f"tenant-{number}", requests) for number in range(1 + NUM_CALM)]
        capacities: list[float] = []
        answers: dict[str, list[Answer]] = {"calm": [], "flood": []}

        def run(phase: str) -> Contestant:
            def turn(index: int) -> float:
                if len(capacities) <= index:
                    capacities.append(capacity(here, server, requests, flooder.key))
                share = capacities[index] / (1 + NUM_CALM)
                rates = dict.fromkeys(calm, CALM_LOAD * share)
                if phase == "flood":
                    rates[flooder] = FLOOD_LOAD * share
                answers[phase] += run_calls(server.port, calls_of(rates, seconds, random)) if index else []
                return seconds

            return turn

        take_turns({phase: run(phase) for phase in answers}, rounds, 1)
    unloaded, flooded = (latencies_of(answers[phase], calm) for phase in ("calm", "flood"))
    ratio = round(flooded.p99_ms / unloaded.p99_ms, 3)
    stderr.print(f"the others' p99: {unloaded.p99_ms} ms without the flood, {flooded.p99_ms} ms beside it")
    return {
        "capacity_rows_per_s": asdict(Spread.of(capacities[1:], 1)),
        "others": asdict(unloaded),
        "others_beside_flood": asdict(flooded),
        "flood": asdict(latencies_of(answers["flood"], [flooder])),
        "others_p99_ratio": ratio,
        "is_within_bounds": ratio <= MAX_P99_RATIO and not flooded.num_failures,
    }


def overload(here: Stand, adapters: Sequence[RandomAdapter], rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """What is answered in time, by how much is offered; what the device computed for it; what memory was taken."""
    requests = here.requests(here.texts(rows), adapters, "uniform")
    messages = [predict_message(request, x_request_timeout_ms=str(DEADLINE_MS)) for request in requests]
    random = np.random.default_rng(here.seed)
    with serving(here.folder, adapters[0].folder.parent, here.work, server_settings(here)) as server:
        seen: dict[float, list[Offered]] = {load: [] for load in OVERLOADS}
        capacities: list[float] = []

        def offered(load: float) -> Contestant:
            def turn(index: int) -> float:
                if len(capacities) <= index:
                    capacities.append(capacity(here, server, requests))
                result = offer(server, load * capacities[index], messages, seconds, random)
                seen[load] += [result] if index else []
                return seconds

            return turn

        take_turns({str(load): offered(load) for load in OVERLOADS}, rounds, 1)
    goodputs = {load: Spread.of([result.goodput_per_s for result in of_load], 1) for load, of_load in seen.items()}
    highest = max(OVERLOADS)
    peak = max(goodputs[load].median for load in OVERLOADS if load != highest)
    ratio = round(goodputs[highest].median / peak, 3)
    stderr.print(f"goodput: {goodputs[highest].median} rows/s of {highest:g} times the capacity offered, peak {peak}")
    return {
        "capacity_rows_per_s": asdict(Spread.of(capacities[1:], 1)),
        "deadline_ms": DEADLINE_MS,
        "by_load": {str(load): summary(of_load) for load, of_load in seen.items()},
        "goodput_of_peak": ratio,
        "is_within_bounds": ratio >= MIN_GOODPUT,
    }


@dataclass(frozen=True)
class Offered:
    """One slice of load. `computed` rows reached the device; `late` ones were answered after their deadline."""

    goodput_per_s: float
    num_sent: int
    by_status: Mapping[int, int]
    num_computed: int
    max_rss_bytes: int
    p99_ms: float


def offer(
    server: Server, rate_per_s: float, messages: Sequence[bytes], seconds: float, random: np.random.Generator
) -> Offered:
    due = arrivals(rate_per_s, seconds, random)
    watch, before = Watch(server), num_computed(server)
    with watch.running():
        answers = run_calls(
            server.port, [Call(due_s, "", messages[turn % len(messages)]) for turn, due_s in enumerate(due)]
        )
    good = [answer for answer in answers if answer.status == 200 and answer.latency_s <= DEADLINE_MS / 1000]
    counted = sum(SETTLING_S <= answer.done_s < seconds for answer in good)
    return Offered(
        goodput_per_s=counted / (seconds - SETTLING_S),
        num_sent=len(answers),
        by_status=Counter(answer.status for answer in answers),
        num_computed=num_computed(server) - before,
        max_rss_bytes=max(watch.rss_bytes),
        p99_ms=float(np.percentile([1e3 * answer.latency_s for answer in good], 99)) if good else 0.0,
    )


def summary(slices: Sequence[Offered]) -> dict[str, Any]:
    by_status: Counter[int] = Counter()
    for result in slices:
        by_status.update(result.by_status)
    return {
        "goodput_per_s": asdict(Spread.of([result.goodput_per_s for result in slices], 1)),
        "num_sent": sum(result.num_sent for result in slices),
        "by_status": {str(status): count for status, count in sorted(by_status.items())},
        "num_computed": sum(result.num_computed for result in slices),
        "max_rss_bytes": max(result.max_rss_bytes for result in slices),
        "good_p99_ms": asdict(Spread.of([result.p99_ms for result in slices], 1)),
    }


def restart(commit: str | None) -> bool:
    haproxy = shutil.which("haproxy")
    if haproxy is None:
        raise SystemExit("the program haproxy, which balances the load, is not installed: `apt-get install haproxy`")
    plan = RestartPlan(callers=16, rounds=3, calm_s=3.0)
    with tempfile.TemporaryDirectory() as folder:
        result = run_rolling_restart(plan, Path(folder), haproxy)
    print_line(commit or git_commit(), device_name("cpu"), {"benchmark": "overload-restart"} | asdict(plan), result)
    return not result["num_failed"]


async def first_admin_key(state: Path) -> str:
    """Of a registry that is made for it."""
    config = RegistryConfig(state_dir=state)
    registry = await Registry.open(config.sqlalchemy_url, LocalBlobStore(config.blobs_dir))
    try:
        key = await registry.ensure_admin_key()
    finally:
        await registry.close()
    assert key is not None, "a new registry had a key already"
    return key


def make_tenant(server: Server, admin: str, name: str, requests: Sequence[Request]) -> Tenant:
    with httpx2.Client(base_url=server.base_url, headers={"X-API-Key": admin}) as http:
        http.post("/admin/v1/tenants", json={"name": name}).raise_for_status()
        body = {"tenant": name, "scopes": ["predict", "adapters:write"]}
        key: str = http.post("/admin/v1/keys", json=body).raise_for_status().json()["secret"]
    with Client(server.base_url, key) as client:
        for adapter in {request.adapter.name: request.adapter for request in requests}.values():
            client.push(adapter.name, adapter.folder)
    return Tenant(name, key, tuple(predict_message(request, x_api_key=key) for request in requests))


def calls_of(rates: Mapping[Tenant, float], seconds: float, random: np.random.Generator) -> list[Call]:
    return [
        Call(due_s, tenant.name, tenant.messages[turn % len(tenant.messages)])
        for tenant, rate_per_s in rates.items()
        for turn, due_s in enumerate(arrivals(rate_per_s, seconds, random))
    ]


def latencies_of(answers: Sequence[Answer], tenants: Sequence[Tenant]) -> Latencies:
    names = {tenant.name for tenant in tenants}
    return Latencies.of([answer for answer in answers if answer.kind in names])


def capacity(here: Stand, server: Server, requests: Sequence[Request], key: str = NO_KEY) -> float:
    """Rows per second with as many callers as wait for each other's packs."""
    pairs = [(request.adapter.name, request.text) for request in requests]
    return run_wrk(server, pairs, CONNECTIONS, CAPACITY_S, here.work, key).rows_per_s


def num_computed(server: Server) -> int:
    lines = httpx2.get(f"{server.base_url}/metrics").text.splitlines()
    return int(float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith("prefixrack_rows_total "))))


def predict_message(request: Request, **headers: str) -> bytes:
    body = json.dumps({"inputs": request.text}).encode()
    return message_of("POST", path_of(request.adapter.name), body, **headers)


if __name__ == "__main__":
    typer.run(main)
