"""What a second server process on the same device brings: a server that uses the device well leaves it nothing to gain.

One server with all threads, against two that share the load: each with all threads, and on a CPU each with half of them
too. Prints one JSON line; see README.md here.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from options import Backbone, Commit, Rounds, Threads
from server_process import Server, check_load, load_program, run_load, serving
from stand import Stand, stand
from throughput import check_served, server_settings
from turns import Contestant, stderr, take_turns
from workload import Request

WARM_UPS = 1


def main(
    num_adapters: int = 100,
    connections: Annotated[int, typer.Option(help="To all servers of a contestant together.")] = 64,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 5,
    seconds: Annotated[int, typer.Option(help="Length of one load.")] = 4,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Load one server and pairs of them in turn."""
    check_load()
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        requests = here.requests(here.texts(256), adapters, "uniform")
        folder = adapters[0].folder.parent
        with ExitStack() as stack:
            pair = [start(stack, here, folder, f"full-{index}", here.threads) for index in range(2)]
            groups = {"one": pair[:1], "two": pair}
            if not here.backbone.is_asynchronous:  # a GPU is not shared out by threads
                half = max(1, here.threads // 2)
                halves = [start(stack, here, folder, f"half-{index}", half) for index in range(2)]
                groups["two with half the threads"] = halves
            contestants = {}
            for name, servers in groups.items():
                check_served(here, servers[-1], requests[:32])
                contestants[name] = loaded(here, servers, requests, connections, seconds)
            turns = take_turns(contestants, rounds, WARM_UPS)
        gains = {name: turns.speed(name, "one") for name in groups if name != "one"}
        result = {
            "rows_per_s": {name: asdict(turns.per_s(name, 1)) for name in groups},
            "of_one": {name: asdict(gain) for name, gain in gains.items()},
        }
        setup = {"num_adapters": num_adapters, "connections": connections, "prefix_len": prefix_len}
        here.emit("two-servers", setup | {"rounds": rounds, "seconds": seconds, "load": load_program()}, result)
        for name, gain in gains.items():
            stderr.print(f"{name}: {gain} of one server's rows per second")


def start(stack: ExitStack, here: Stand, adapters: Path, state: str, threads: int) -> Server:
    settings = server_settings(here) | {"ENGINE__NUM_THREADS": threads}
    return stack.enter_context(serving(here.folder, adapters, here.work, settings, state=here.work / state))


def loaded(
    here: Stand, servers: Sequence[Server], requests: Sequence[Request], connections: int, seconds: int
) -> Contestant:
    """Seconds for one row, of all servers together."""
    pairs = [(request.adapter.name, request.text) for request in requests]
    each = connections // len(servers)

    def load(server: Server) -> float:
        work = here.work / f"load-{server.port}"
        work.mkdir(exist_ok=True)
        return run_load(server, pairs, each, seconds, work).rows_per_s

    def run(_: int) -> float:
        with ThreadPoolExecutor(len(servers)) as threads:
            return 1 / sum(threads.map(load, servers))

    return run


if __name__ == "__main__":
    typer.run(main)
