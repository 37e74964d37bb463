"""Latency of adapters that are ready while others are uploaded and deleted all the time, against a quiet registry.

Both streams are open-loop: predictions at a share of what the server can do, and so many changes a second, every other
one the upload of an adapter that was never there, every other one its deletion. The load runs on the same cores as the
server, and sends whole bundles: what it takes itself is in the line, beside what the server takes. Prints one JSON
line; see README.md here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from statistics import fmean
from typing import Annotated

import numpy as np
import typer

from latency import capacity, predict_message
from open_loop import Answer, Call, Latencies, arrivals, message_of, run_calls
from options import Backbone, Commit, HttpWorkers, Rounds, SentRows, SliceSeconds, Threads
from prefixrack_adapters.bundle import tar_bundle
from server_process import Server, check_load, serving
from stand import Stand, stand
from throughput import check_served, server_settings
from turns import Contestant, Spread, stderr, take_turns
from workload import RandomAdapter, Request, write_adapters

DELETE_AFTER = 10  # uploads: an adapter is there for a while before it is deleted


def main(
    num_adapters: Annotated[int, typer.Option(help="Ready ones, which are asked.")] = 100,
    changes_per_s: Annotated[float, typer.Option(help="Uploads and deletions together.")] = 50.0,
    load: Annotated[
        float, typer.Option(help="Of what the server can do; less where one process cannot send half of that.")
    ] = 0.5,
    rows: SentRows = 256,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    http_workers: HttpWorkers = None,
    rounds: Rounds = 4,
    seconds: SliceSeconds = 6.0,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Send the same load with and without changes in turn."""
    check_load()
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        num_uploads = int((rounds + 1) * seconds * changes_per_s / 2) + DELETE_AFTER
        coming = write_adapters(here.work / "coming", here.backbone.spec, num_uploads, prefix_len, first=num_adapters)
        requests = here.requests(here.texts(rows), adapters, "uniform")
        settings = server_settings(here, http_workers)
        with serving(here.folder, adapters[0].folder.parent, here.work, settings) as server:
            check_served(here, server, requests[:32])
            rate = load * capacity(here, server, requests)
            result = measure(here, server, requests, coming, rate, changes_per_s, rounds, seconds)
        setup = {"num_adapters": num_adapters, "prefix_len": prefix_len, "changes_per_s": changes_per_s, "load": load}
        here.emit("changes", setup | {"http_workers": http_workers, "rounds": rounds, "seconds": seconds}, result)


def measure(
    here: Stand,
    server: Server,
    requests: Sequence[Request],
    coming: Sequence[RandomAdapter],
    rate: float,
    changes_per_s: float,
    rounds: int,
    seconds: float,
) -> dict[str, object]:
    messages = [predict_message(request) for request in requests]
    random = np.random.default_rng(here.seed)
    changes = changes_of(coming)
    seen: dict[str, list[Latencies]] = {"quiet": [], "changing": []}
    cores: dict[str, list[Cores]] = {name: [] for name in seen}
    answers: list[Answer] = []

    def loaded(name: str) -> Contestant:
        def run(index: int) -> float:
            due = arrivals(rate, seconds, random)
            calls = [Call(due_s, "predict", messages[turn % len(messages)]) for turn, due_s in enumerate(due)]
            if name == "changing":
                calls += [Call(due_s, *next(changes)) for due_s in np.arange(0, seconds, 1 / changes_per_s)]
            before = Cores.so_far(server)
            got = run_calls(server.port, calls)
            if index:
                cores[name].append(before.until(Cores.so_far(server), seconds))
                seen[name].append(Latencies.of([answer for answer in got if answer.kind == "predict"]))
                answers.extend(got)
            return seconds

        return run

    take_turns({name: loaded(name) for name in seen}, rounds, 1)
    kinds = {kind: Latencies.of([one for one in answers if one.kind == kind]) for kind in ("upload", "delete")}
    ratio = Spread.of([one.p99_ms / quiet.p99_ms for one, quiet in zip(seen["changing"], seen["quiet"], strict=True)])
    p99 = {name: Spread.of([one.p99_ms for one in of_name], 2) for name, of_name in seen.items()}
    stderr.print(f"p99 with changes / without: {ratio}; p99 {p99['quiet']} ms without")
    return {
        "rows_per_s": round(rate, 1),
        "p99_ms": {name: asdict(spread) for name, spread in p99.items()},
        "p50_ms": {name: asdict(Spread.of([one.p50_ms for one in of_name], 2)) for name, of_name in seen.items()},
        "late_p99_ms": {
            name: asdict(Spread.of([one.late_p99_ms for one in of_name], 2)) for name, of_name in seen.items()
        },
        "p99_ratio": asdict(ratio),
        "cores": {name: asdict(Cores.mean(of_name)) for name, of_name in cores.items()},
        "num_failures": sum(answer.status >= 400 for answer in answers),
        **{kind: asdict(latencies) for kind, latencies in kinds.items()},
    }


@dataclass(frozen=True)
class Cores:
    """CPU time of the server and of the load, in seconds; or of one second, which is in cores."""

    server: float
    load: float

    @classmethod
    def so_far(cls, server: Server) -> Cores:
        return cls(server.cpu_s(), time.process_time())

    def until(self, later: Cores, seconds: float) -> Cores:
        return Cores((later.server - self.server) / seconds, (later.load - self.load) / seconds)

    @classmethod
    def mean(cls, slices: Sequence[Cores]) -> Cores:
        return cls(*(round(fmean(values), 3) for values in zip(*map(astuple, slices), strict=True)))


def changes_of(coming: Sequence[RandomAdapter]) -> Iterator[tuple[str, bytes]]:
    """Kind and message: uploads, and when DELETE_AFTER adapters are there, deletions in turn with them."""
    for index, adapter in enumerate(coming):
        body = b"".join(tar_bundle(adapter.folder))
        yield "upload", message_of("POST", f"/admin/v1/adapters/{adapter.name}/versions", body, "application/x-tar")
        if index >= DELETE_AFTER:
            yield "delete", message_of("DELETE", f"/admin/v1/adapters/{coming[index - DELETE_AFTER].name}")


if __name__ == "__main__":
    typer.run(main)
