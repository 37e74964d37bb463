"""Rows per second, in this process and over HTTP, against the bare padded backbone and the limit set by its GEMMs.

Prints one JSON line per run on standard output; see README.md here.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

from engine_rounds import EngineRounds
from equality import check_answers, check_equal
from options import Backbone, Commit, Threads
from prefixrack_adapters.backbone import PackRow
from server_process import Load, Server, check_load, load_program, rss_bytes, run_load, serving
from stand import Stand, stand
from turns import Spread, Turns, stderr, take_turns
from workload import POPULARITIES, RandomAdapter, Request, count_tokens
from yardsticks import BarePadded, GemmLimit, gemm_limit

NUM_WARM_UPS = 3
NUM_SLICES = 5
ROUNDS_PER_SLICE = 6
NUM_RESIDENT_IN_MEMORY_RUN = 100
BARE_PROCESS = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2])).eval()
with torch.inference_mode():
    model(input_ids=torch.ones(32, 32, dtype=torch.long))
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Setup:
    num_adapters: int
    rows: int
    row_len: int | None
    prefix_len: int
    workload: str


@dataclass(frozen=True)
class Result:
    """`of_…` and `over_…` are ratios of speeds, taken round by round."""

    rows_per_s: float
    bare_padded_rows_per_s: float | None
    gemm_limit_rows_per_s: float
    of_gemm_limit: Spread
    over_bare_padded: Spread | None
    p50_ms: float
    p99_ms: float


@dataclass
class Timed:
    """Contestants of one workload, and what they noted on the way."""

    requests: Sequence[Request]
    rounds: EngineRounds
    bare: BarePadded
    gemm: GemmLimit
    with_bare: bool
    latencies_s: list[float] = field(default_factory=list)
    loads: dict[str, list[Load]] = field(default_factory=dict)  # by server

    def engine(self, _: int) -> float:
        latencies_s = self.rounds.run(self.requests)[1]
        self.latencies_s += latencies_s
        return max(latencies_s)

    def engine_rounds(self, _: int) -> float:
        """The median of some rounds, to hold against a slice of load that is as long as many."""
        return statistics.median(self.engine(turn) for turn in range(ROUNDS_PER_SLICE))

    def bare_padded(self, _: int) -> float:
        return self.bare.seconds([request.row for request in self.requests])

    def gemm_limit(self, _: int) -> float:
        return self.gemm.sweep()

    def peers(self) -> dict[str, Callable[[int], float]]:
        bare = {"bare": self.bare_padded} if self.with_bare else {}
        return {**bare, "limit": self.gemm_limit}

    def take_turns(self, contestants: Mapping[str, Callable[[int], float]], rounds: int, warm_ups: int) -> Turns:
        """With the seconds of the limit those of the fastest forms, and no notes from the warm-up."""
        turns = take_turns({**contestants, **self.peers()}, rounds, warm_ups)
        share = rounds / (rounds + warm_ups)
        self.latencies_s = self.latencies_s[-round(share * len(self.latencies_s)) :]
        self.loads = {name: loads[-rounds:] for name, loads in self.loads.items()}
        return Turns({**turns.seconds, "limit": self.gemm.seconds(rounds)})


def main(
    workload: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(POPULARITIES)}; all by default.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="engine, http; both by default.")] = None,
    rows: Annotated[int, typer.Option(help="Rows per round, and connections over HTTP.")] = 32,
    row_len: Annotated[int | None, typer.Option(help="Tokens of every row; natural lengths by default.")] = None,
    num_adapters: int = 32,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    bare: Annotated[bool, typer.Option(help="Time the bare padded backbone too.")] = True,
    iterations: Annotated[int, typer.Option(help="Timed rounds.")] = 30,
    seconds: Annotated[int, typer.Option(help="Length of one load over HTTP.")] = 20,
    http_workers: Annotated[
        list[int] | None,
        typer.Option(help="Front-end processes; several in turn. [default: the server's choice]"),
    ] = None,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
    memory: Annotated[bool, typer.Option(help="Measure memory with 1,000 adapters instead.")] = False,
) -> None:
    """Measure Prefixrack's throughput; equality of outputs is checked before anything is timed."""
    paths = path or ["engine", "http"]
    if "http" in paths and not memory:
        check_load()
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(1000 if memory else num_adapters, prefix_len)
        bench = Bench(here, adapters, here.texts(rows, row_len), row_len, bare, iterations, seconds)
        if memory:
            measure_memory(bench)
        else:
            measure_all(bench, workload or list(POPULARITIES), paths, http_workers or [None])


@dataclass(frozen=True)
class Bench:
    stand: Stand
    adapters: list[RandomAdapter]
    texts: list[str]
    row_len: int | None
    with_bare: bool
    iterations: int
    seconds: int

    def setup(self, popularity: str) -> dict[str, Any]:
        prefix_len = self.adapters[0].manifest.prefix.prefix_len
        return asdict(Setup(len(self.adapters), len(self.texts), self.row_len, prefix_len, popularity))

    def timed(self, popularity: str) -> Timed:
        """Contestants whose outputs were compared. The caller stops `rounds`."""
        backbone = self.stand.backbone
        requests = self.stand.requests(self.texts, self.adapters, popularity)
        bare = BarePadded(self.stand.folder, backbone.device, backbone.dtype)
        check_bare(self.stand, bare, requests)
        gemm = gemm_limit(bare.model, count_tokens(requests), backbone.device, backbone.dtype)
        return Timed(requests, EngineRounds(backbone, self.adapters, self.stand.threads), bare, gemm, self.with_bare)


def measure_all(
    bench: Bench, popularities: Sequence[str], paths: Sequence[str], http_workers: Sequence[int | None]
) -> None:
    if "engine" in paths:
        for popularity in popularities:
            measure_engine(bench, popularity)
    if "http" in paths:
        with ExitStack() as stack:
            servers = {workers: stack.enter_context(served(bench, workers)) for workers in http_workers}
            for popularity in popularities:
                measure_http(bench, servers, popularity)


def served(bench: Bench, workers: int | None) -> AbstractContextManager[Server]:
    here, adapters = bench.stand, bench.adapters[0].folder.parent
    work = here.work / f"server-{workers}"
    work.mkdir()
    return serving(here.folder, adapters, work, server_settings(here, workers))


def measure_engine(bench: Bench, popularity: str) -> None:
    timed = bench.timed(popularity)
    try:
        check_answers(bench.stand.backbone, timed.requests, timed.rounds.logits(timed.requests))
        turns = timed.take_turns({"engine": timed.engine}, bench.iterations, NUM_WARM_UPS)
    finally:
        timed.rounds.stop()
    p50_ms, p99_ms = np.percentile(np.array(timed.latencies_s) * 1e3, [50, 99])
    result = result_of(turns, "engine", len(timed.requests), p50_ms, p99_ms)
    report(bench, "engine", popularity, result, {}, {})


def measure_http(bench: Bench, servers: Mapping[int | None, Server], popularity: str) -> None:
    """Slices of load on every server, in turn with rounds in this process, of the engine and of its peers."""
    timed = bench.timed(popularity)
    contestants: dict[str, Callable[[int], float]] = {"engine": timed.engine_rounds}
    for workers, server in servers.items():
        check_served(bench.stand, server, timed.requests)
        contestants[http_name(workers)] = http_slices(bench, http_name(workers), server, timed)
    try:
        turns = timed.take_turns(contestants, NUM_SLICES, 1)
    finally:
        timed.rounds.stop()
    for workers in servers:
        report_http(bench, popularity, timed, turns, workers)


def http_name(workers: int | None) -> str:
    return "http" if workers is None else f"http, {workers} front ends"


def report_http(bench: Bench, popularity: str, timed: Timed, turns: Turns, workers: int | None) -> None:
    name, num_rows = http_name(workers), len(timed.requests)
    loads = timed.loads[name]
    p50_ms, p99_ms = (statistics.median(getattr(load, field) for load in loads) for field in ("p50_ms", "p99_ms"))
    num_requests, duration_s = sum(load.num_requests for load in loads), sum(load.duration_s for load in loads)
    of_in_process = turns.speed(name, "engine")
    more: dict[str, Any] = {
        "in_process_rows_per_s": turns.per_s("engine", num_rows).median,
        "of_in_process": asdict(of_in_process),
        "http_cpu_ms": round(sum(load.http_cpu_s for load in loads) / num_requests * 1e3, 3),
        "wrk_cpu_share": round(sum(load.load_cpu_s for load in loads) / duration_s, 3),
    }
    result = result_of(turns, name, num_rows, p50_ms, p99_ms)
    report(bench, "http", popularity, result, more, {"http_workers": workers, "load": load_program()})
    stderr.print(f"  {name}: {of_in_process} of in-process")


def http_slices(bench: Bench, name: str, server: Server, timed: Timed) -> Callable[[int], float]:
    pairs = [(request.adapter.name, request.text) for request in timed.requests]
    slice_s = max(1, bench.seconds // NUM_SLICES)

    def run(_: int) -> float:
        load = run_load(server, pairs, len(pairs), slice_s, bench.stand.work)
        timed.loads.setdefault(name, []).append(load)
        return len(pairs) / load.rows_per_s

    return run


def result_of(turns: Turns, name: str, num_rows: int, p50_ms: float, p99_ms: float) -> Result:
    return Result(
        rows_per_s=turns.per_s(name, num_rows).median,
        bare_padded_rows_per_s=turns.per_s("bare", num_rows).median if "bare" in turns.seconds else None,
        gemm_limit_rows_per_s=turns.per_s("limit", num_rows).median,
        of_gemm_limit=turns.speed(name, "limit"),
        over_bare_padded=turns.speed(name, "bare") if "bare" in turns.seconds else None,
        p50_ms=round(float(p50_ms), 2),
        p99_ms=round(float(p99_ms), 2),
    )


def report(
    bench: Bench,
    benchmark: str,
    popularity: str,
    result: Result,
    more: Mapping[str, Any],
    setup: Mapping[str, Any],
) -> None:
    here = bench.stand
    here.emit(benchmark, bench.setup(popularity) | dict(setup), asdict(result) | dict(more))
    bare = "" if result.over_bare_padded is None else f", {result.over_bare_padded} × bare padded"
    stderr.print(f"{benchmark}, {here.shape}, {here.dtype}, {popularity}: {result.of_gemm_limit} of the limit{bare}")


def check_bare(here: Stand, bare: BarePadded, requests: Sequence[Request]) -> None:
    """Rows without an adapter against stock transformers: both measure the same backbone."""
    rows = [request.row for request in requests]
    plain = [type(row)(row.token_ids, row.segment_ids, here.backbone.spec.base_position) for row in rows]
    packed = here.backbone.compute([PackRow(row, None) for row in plain])
    stock = bare.hidden_states(plain)
    seen, expected = np.concatenate(packed), np.concatenate(stock)
    check_equal("pack and stock transformers", seen, expected, here.dtype, here.backbone.device)


def check_served(here: Stand, server: Server, requests: Sequence[Request]) -> None:
    """A server's logits against each row alone in this process."""
    logits = [np.array(server.predict(request.adapter.name, request.text)) for request in requests]
    check_answers(here.backbone, requests, np.stack(logits))


def measure_memory(bench: Bench) -> None:
    """Resident memory of a server with 1,000 adapters registered and 100 resident, over that of a bare backbone."""
    here = bench.stand
    bare_bytes = bare_process_bytes(here)
    with serving(here.folder, bench.adapters[0].folder.parent, here.work, server_settings(here)) as server:
        for adapter in track(bench.adapters[:NUM_RESIDENT_IN_MEMORY_RUN], "resident", console=stderr, transient=True):
            for text in bench.texts[:2]:
                server.predict(adapter.name, text)
        server_bytes = server.rss_bytes()
    setup = bench.setup("distinct") | {"num_resident": NUM_RESIDENT_IN_MEMORY_RUN}
    result = {"server_bytes": server_bytes, "bare_bytes": bare_bytes, "extra_bytes": server_bytes - bare_bytes}
    here.emit("memory", setup, result)


def bare_process_bytes(here: Stand) -> int:
    command = [sys.executable, "-c", BARE_PROCESS, str(here.folder), here.computed_in]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return rss_bytes(process.pid)


def server_settings(here: Stand, http_workers: int | None = None) -> dict[str, Any]:
    """As the backbone in this process; threads and front-end processes as many as asked for, or the server's choice."""
    asked = {"ENGINE__NUM_THREADS": here.server_threads, "HTTP__WORKERS": http_workers}
    settings = {"BACKBONE__DTYPE": here.dtype, "BACKBONE__DEVICE": here.backbone.device}
    return settings | {name: number for name, number in asked.items() if number is not None}


if __name__ == "__main__":
    typer.run(main)
