"""Rows per second by the number of adapters and their popularity, and what queueing costs, with up to 10,000 resident.

Prints a JSON line for each of the two; see README.md here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import numpy as np
import typer

from engine_rounds import EngineRounds
from equality import check_answers
from options import GIB, Backbone, Commit, PackRows, ResidentGib, Rounds, Threads
from stand import Stand, stand
from turns import Contestant, Spread, stderr, take_turns
from workload import RandomAdapter

COUNTS = (1, 10, 100, 1_000, 10_000)
QUEUED = (100, 1_000, 10_000)
WARM_UPS = 2
STEPS = 5


def main(
    num_adapters: Annotated[int, typer.Option(help="The most; smaller counts are powers of ten.")] = 10_000,
    rows: PackRows = 128,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 20,
    resident_gib: ResidentGib = 8,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Make all adapters resident; then time rounds of the first n of them in turn, and steps with long queues."""
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        engine = EngineRounds(here.backbone, adapters, here.threads, resident_bytes=resident_gib * GIB)
        try:
            engine.make_resident(adapters)
            measure_counts(here, engine, adapters, rows, rounds)
            if not here.backbone.is_asynchronous:  # a step's own time is known where its pack is computed within it
                measure_queues(here, engine, adapters, rounds)
        finally:
            engine.stop()


def measure_counts(
    here: Stand, engine: EngineRounds, adapters: Sequence[RandomAdapter], num_rows: int, rounds: int
) -> None:
    counts = [count for count in COUNTS if count < len(adapters)] + [len(adapters)]
    texts = here.texts(num_rows)
    for popularity in ("uniform", "skewed"):
        requests = here.requests(texts, adapters, popularity)
        check_answers(here.backbone, requests, engine.logits(requests))

    def contestant(count: int, popularity: str) -> Contestant:
        """Other adapters every round, so that all have their turn."""
        return lambda index: engine.seconds(here.requests(texts, adapters[:count], popularity, index))

    contestants = {f"{count} uniform": contestant(count, "uniform") for count in counts}
    skewed = f"{counts[-1]} skewed"
    turns = take_turns(contestants | {skewed: contestant(counts[-1], "skewed")}, rounds, WARM_UPS)
    first, *_, last = contestants
    result = {
        "rows_per_s": {name: asdict(turns.per_s(name, num_rows)) for name in turns.seconds},
        "of_one_adapter": {name: asdict(turns.speed(name, first)) for name in turns.seconds},
        "uniform_of_skewed": asdict(turns.speed(last, skewed)),
    }
    setup = {"num_adapters": len(adapters), "rows": num_rows, "prefix_len": prefix_len_of(adapters), "rounds": rounds}
    here.emit("adapter-counts", setup, result)
    for name in contestants:
        stderr.print(f"{name}: {turns.speed(name, first)} of the speed with one")
    stderr.print(f"uniform / skewed: {turns.speed(last, skewed)}")


def measure_queues(here: Stand, engine: EngineRounds, adapters: Sequence[RandomAdapter], rounds: int) -> None:
    """The time of steps beside their packs, with so many rows queued, each for another adapter."""
    seen: Mapping[int, list[float]] = {num_queued: [] for num_queued in QUEUED}
    submits_us: Mapping[int, list[float]] = {num_queued: [] for num_queued in QUEUED}
    texts = here.texts(max(QUEUED))
    requests = here.requests(texts, adapters, "distinct")
    random = np.random.default_rng(here.seed)
    for _ in range(max(3, rounds // STEPS)):
        for num_queued in random.permutation(QUEUED):
            costs = engine.run_steps(requests[: int(num_queued)], 1 if num_queued <= min(QUEUED) else STEPS)
            seen[int(num_queued)].append(costs.overhead)
            submits_us[int(num_queued)].append(1e6 * costs.submit_s / num_queued)
    result = {
        "overhead": {str(num_queued): asdict(Spread.of(values, 5)) for num_queued, values in seen.items()},
        "submit_us_per_row": {str(num_queued): asdict(Spread.of(values)) for num_queued, values in submits_us.items()},
    }
    here.emit("queue", {"num_adapters": len(adapters), "prefix_len": prefix_len_of(adapters), "rounds": rounds}, result)
    for num_queued, values in seen.items():
        stderr.print(f"{num_queued} rows queued: steps take {Spread.of(values, 5).median:.2%} beside their packs")


def prefix_len_of(adapters: Sequence[RandomAdapter]) -> int:
    return adapters[0].manifest.prefix.prefix_len


if __name__ == "__main__":
    typer.run(main)
