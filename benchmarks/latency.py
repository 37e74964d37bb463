"""Latency over HTTP under open-loop load, by how busy the server is kept: p50, p95, p99.

What the server can do is measured first in each round, with closed-loop load; the open loop then sends shares of that.
Prints one JSON line; see README.md here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import typer

from open_loop import Answer, Call, Latencies, arrivals, message_of, run_calls
from options import Backbone, Commit, Rounds, SentRows, SliceSeconds, Threads
from server_process import Server, check_load, path_of, run_load, serving
from stand import Stand, stand
from throughput import check_served, server_settings
from turns import Contestant, Spread, stderr, take_turns
from workload import Request

LOADS = (0.2, 0.5, 0.7, 0.9)
CONNECTIONS = 64
CAPACITY_S = 3


def main(
    num_adapters: int = 100,
    rows: SentRows = 256,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 3,
    seconds: SliceSeconds = 6.0,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Send requests at Poisson times to a server with an adapter drawn for each."""
    check_load()
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        requests = here.requests(here.texts(rows), adapters, "uniform")
        with serving(here.folder, adapters[0].folder.parent, here.work, server_settings(here)) as server:
            check_served(here, server, requests[:32])
            result = measure(here, server, requests, rounds, seconds)
        setup = {"num_adapters": num_adapters, "rows": rows, "prefix_len": prefix_len, "workload": "uniform"}
        here.emit("latency", setup | {"rounds": rounds, "seconds": seconds}, result)


def measure(here: Stand, server: Server, requests: Sequence[Request], rounds: int, seconds: float) -> dict[str, object]:
    messages = [predict_message(request) for request in requests]
    random = np.random.default_rng(here.seed)
    capacities: list[float] = []
    answers: dict[float, list[Answer]] = {load: [] for load in LOADS}

    def loaded(load: float) -> Contestant:
        def run(index: int) -> float:
            if len(capacities) <= index:
                capacities.append(capacity(here, server, requests))
            due = arrivals(load * capacities[index], seconds, random)
            calls = [Call(due_s, "predict", messages[turn % len(messages)]) for turn, due_s in enumerate(due)]
            answers[load] += run_calls(server.port, calls) if index else []
            return seconds

        return run

    take_turns({str(load): loaded(load) for load in LOADS}, rounds, 1)
    latencies = {load: Latencies.of(of_load) for load, of_load in answers.items()}
    for load, seen in latencies.items():
        stderr.print(f"{load:.0%} of capacity: p50 {seen.p50_ms} ms, p95 {seen.p95_ms} ms, p99 {seen.p99_ms} ms")
    return {
        "capacity_rows_per_s": asdict(Spread.of(capacities[1:], 1)),
        "latency": {str(load): asdict(seen) for load, seen in latencies.items()},
    }


def capacity(here: Stand, server: Server, requests: Sequence[Request]) -> float:
    """Rows per second with as many callers as wait for each other's packs."""
    pairs = [(request.adapter.name, request.text) for request in requests]
    return run_load(server, pairs, CONNECTIONS, CAPACITY_S, here.work).rows_per_s


def predict_message(request: Request) -> bytes:
    return message_of("POST", path_of(request.adapter.name), json.dumps({"inputs": request.text}).encode())


if __name__ == "__main__":
    typer.run(main)
