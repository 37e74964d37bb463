"""More than a server can do: one tenant floods it, everybody together offers three times its capacity, it is restarted.

Prints a JSON line for each part and path and exits with 1 where one misses its bound; see README.md here. All load is
open-loop.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from machine import device_name, git_commit
from open_loop import Answer, Latencies, arrivals
from options import Backbone, Commit, Rounds, SliceSeconds
from overload_targets import PATHS, Counts, Due, Target, watched
from server_process import check_load
from stand import Stand, print_line, stand
from turns import Contestant, Spread, stderr, take_turns
from workload import Request

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from rolling_restart import RestartPlan, run_rolling_restart

PARTS = ("flood", "overload", "restart")
FLOODER = "flood"
CALM = ("calm-1", "calm-2", "calm-3")
CALM_LOAD = 0.8  # of its share, for each tenant that does not flood
FLOOD_LOAD = 5.0
OVERLOADS = (0.9, 1.0, 3.0)
DEADLINE_MS = 1000
SETTLING_S = 1.0  # of a slice, which is not counted
SAMPLE_S = 0.25
MIB = 1 << 20
# The bounds.
MAX_P99_RATIO = 1.5
MIN_GOODPUT = 0.9
MAX_GROWTH_MIB = 64


@dataclass(frozen=True)
class Slice:
    """One slice of load: its answers, and what the engine did for them."""

    answers: Sequence[Answer]
    counts: Counts
    rss_bytes: Sequence[int]
    seconds: float
    load_cpu_s: float

    def of(self, tenants: Sequence[str]) -> list[Answer]:
        return [answer for answer in self.answers if answer.kind in tenants and answer.due_s >= SETTLING_S]

    def goodput_per_s(self, planned_s: float) -> float:
        good = sum(is_good(answer) and SETTLING_S <= answer.done_s < planned_s for answer in self.answers)
        return good / (planned_s - SETTLING_S)


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"One or more of {', '.join(PARTS)}; all by default.")] = None,
    path: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PATHS)}; both by default.")] = None,
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
    """Run the parts, each against a server or an engine of its own."""
    parts, paths = part or list(PARTS), path or list(PATHS)
    bounds: dict[str, bool] = {}
    if set(parts) & {"flood", "overload"}:
        check_load()
        with stand(backbone, dtype=dtype, device="cpu", threads=threads, seed=seed, commit=commit) as here:
            requests = here.requests(here.texts(rows), here.adapters(num_adapters), "uniform")
            for name, run in (("flood", flood), ("overload", overload)):
                for way in paths if name in parts else ():
                    setup = {"path": way, "num_adapters": num_adapters, "rows": rows}
                    result = run(here, way, requests, rounds, seconds)
                    here.emit(f"overload-{name}", setup | {"rounds": rounds, "seconds": seconds}, result)
                    bounds[f"{name} ({way})"] = result["is_within_bounds"]
    if "restart" in parts:
        bounds["restart"] = restart(commit)
    missed = [name for name, is_kept in bounds.items() if not is_kept]
    if missed:
        stderr.print(f"bounds missed: {', '.join(missed)}")
        raise typer.Exit(1)


def flood(here: Stand, path: str, requests: Sequence[Request], rounds: int, seconds: float) -> dict[str, Any]:
    """Latencies of tenants within their shares, beside one that sends five times its own and without it."""
    random = np.random.default_rng(here.seed)
    with PATHS[path](here, requests, (FLOODER, *CALM), None) as target:
        capacities: list[float] = []
        slices: dict[str, list[Slice]] = {"calm": [], "flood": []}

        def run(phase: str) -> Contestant:
            def turn(index: int) -> float:
                if len(capacities) <= index:
                    capacities.append(target.capacity())
                share = capacities[index] / (1 + len(CALM))
                rates = dict.fromkeys(CALM, CALM_LOAD * share)
                rates |= {FLOODER: FLOOD_LOAD * share} if phase == "flood" else {}
                one = offer(target, rates, seconds, random)
                slices[phase] += [one] if index else []
                return seconds

            return turn

        take_turns({phase: run(phase) for phase in slices}, rounds, 1)
    unloaded, flooded = (latencies_of(slices[phase], CALM) for phase in ("calm", "flood"))
    ratio = round(flooded.p99_ms / unloaded.p99_ms, 3)
    stderr.print(f"{path}: the others' p99: {unloaded.p99_ms} ms without the flood, {flooded.p99_ms} ms beside it")
    return {
        "capacity_rows_per_s": asdict(Spread.of(capacities[1:], 1)),
        "others": asdict(unloaded),
        "others_beside_flood": asdict(flooded),
        "flood": asdict(latencies_of(slices["flood"], [FLOODER])),
        "engine": {phase: engine_of(of_phase) for phase, of_phase in slices.items()},
        "others_p99_ratio": ratio,
        "is_within_bounds": ratio <= MAX_P99_RATIO and not flooded.num_failures,
    }


def overload(here: Stand, path: str, requests: Sequence[Request], rounds: int, seconds: float) -> dict[str, Any]:
    """What is answered in time, by how much is offered; what the device computed for it; what memory was taken."""
    random = np.random.default_rng(here.seed)
    with PATHS[path](here, requests, (FLOODER,), DEADLINE_MS) as target:
        slices: dict[float, list[Slice]] = {load: [] for load in OVERLOADS}
        capacities: list[float] = []

        def offered(load: float) -> Contestant:
            def turn(index: int) -> float:
                if len(capacities) <= index:
                    capacities.append(target.capacity())
                one = offer(target, {FLOODER: load * capacities[index]}, seconds, random)
                slices[load] += [one] if index else []
                return seconds

            return turn

        take_turns({str(load): offered(load) for load in OVERLOADS}, rounds, 1)
    goodputs = {load: Spread.of([one.goodput_per_s(seconds) for one in of], 1) for load, of in slices.items()}
    highest = max(OVERLOADS)
    peak = max(goodputs[load].median for load in OVERLOADS if load != highest)
    ratio = round(goodputs[highest].median / peak, 3)
    num_late = sum(one.counts.num_late for of_load in slices.values() for one in of_load)
    most_mib = [round(max(one.rss_bytes) / MIB) for one in slices[highest]]
    stderr.print(f"{path}: goodput {goodputs[highest].median}/s at {highest:g} times the capacity, peak {peak}/s")
    return {
        "capacity_rows_per_s": asdict(Spread.of(capacities[1:], 1)),
        "deadline_ms": DEADLINE_MS,
        "by_load": {str(load): summary(of_load, goodputs[load]) for load, of_load in slices.items()},
        "goodput_of_peak": ratio,
        "num_late_on_device": num_late,
        "most_mib_by_round": most_mib,
        "is_within_bounds": ratio >= MIN_GOODPUT and not num_late and most_mib[-1] - most_mib[0] <= MAX_GROWTH_MIB,
    }


def offer(target: Target, rates: Mapping[str, float], seconds: float, random: np.random.Generator) -> Slice:
    load = [
        Due(due_s, tenant, turn)
        for tenant, rate_per_s in rates.items()
        for turn, due_s in enumerate(arrivals(rate_per_s, seconds, random))
    ]
    before, cpu_before_s, started_at = target.counts(), target.load_cpu_s(), time.monotonic()
    with short_collections(), watched(target, SAMPLE_S) as rss_bytes:
        answers = target.run(load)
    taken_s, cpu_s = time.monotonic() - started_at, target.load_cpu_s() - cpu_before_s
    return Slice(answers, target.counts().since(before), rss_bytes, taken_s, cpu_s)


@contextmanager
def short_collections() -> Iterator[None]:
    """A garbage collection of everything that is loaded here would make the load late, by a third of a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def is_good(answer: Answer) -> bool:
    return answer.status == 200 and answer.latency_s <= DEADLINE_MS / 1000


def latencies_of(slices: Sequence[Slice], tenants: Sequence[str]) -> Latencies:
    return Latencies.of([answer for one in slices for answer in one.of(tenants)])


def engine_of(slices: Sequence[Slice]) -> dict[str, float]:
    """Its packs, and what the load took beside it; until the last answer, which a flood waits for."""
    seconds = sum(one.seconds for one in slices)
    num_packs = sum(one.counts.num_packs for one in slices)
    pack_s = sum(one.counts.pack_s for one in slices)
    return {
        "tokens_per_pack": round(sum(one.counts.num_tokens for one in slices) / num_packs, 1),
        "pack_ms": round(1e3 * pack_s / num_packs, 2),
        "busy_share": round(pack_s / seconds, 3),
        "load_cpu_share": round(sum(one.load_cpu_s for one in slices) / seconds, 3),
    }


def summary(slices: Sequence[Slice], goodput: Spread) -> dict[str, Any]:
    by_status: Counter[int] = Counter(answer.status for one in slices for answer in one.answers)
    good_ms = [1e3 * answer.latency_s for one in slices for answer in one.answers if is_good(answer)]
    return {
        "goodput_per_s": asdict(goodput),
        "num_sent": sum(len(one.answers) for one in slices),
        "by_status": {str(status): count for status, count in sorted(by_status.items())},
        "num_computed": sum(one.counts.num_rows for one in slices),
        "num_expired": sum(one.counts.num_expired for one in slices),
        "num_late": sum(one.counts.num_late for one in slices),
        "good_p99_ms": round(float(np.percentile(good_ms, 99)), 1) if good_ms else None,
        "rss_mib": [round(rss_bytes / MIB) for rss_bytes in slices[-1].rss_bytes],
        "engine": engine_of(slices),
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


if __name__ == "__main__":
    typer.run(main)
