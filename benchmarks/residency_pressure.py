"""Rows per second when the adapters that are asked for take twice the room that the device has for them.

Against the same engine with room for all; prints one JSON line per popularity, see README.md here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from engine_rounds import EngineRounds
from equality import check_answers
from options import GIB, Backbone, Commit, PackRows, ResidentGib, Rounds, Threads
from stand import Stand, stand
from turns import Contestant, stderr, take_turns
from workload import RandomAdapter

WARM_UPS = 3
POPULARITIES = ("uniform", "skewed")


def main(
    num_adapters: int = 512,
    rows: PackRows = 128,
    working_set: Annotated[float, typer.Option(help="Room that all adapters take, by the room there is.")] = 2.0,
    host_mib: Annotated[
        int | None, typer.Option(help="Host memory for adapters of the tight engine; the server's default otherwise.")
    ] = None,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 20,
    resident_gib: ResidentGib = 1,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Time an engine with too little room and one with enough in turn."""
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        shared = {"max_pack_tokens": here.pack_tokens()}
        roomy = EngineRounds(here.backbone, adapters, here.threads, resident_bytes=resident_gib * GIB, **shared)
        roomy.make_resident(adapters)
        budget_bytes = int(roomy.stats().resident_bytes / working_set)
        host_bytes = "auto" if host_mib is None else host_mib << 20
        limits = {"resident_bytes": budget_bytes, "host_bytes": host_bytes}
        tight = EngineRounds(here.backbone, adapters, here.threads, **limits, **shared)
        try:
            for popularity in POPULARITIES:
                setup = {"num_adapters": num_adapters, "rows": rows, "prefix_len": prefix_len, "workload": popularity}
                result = measure(here, roomy, tight, adapters, popularity, rows, rounds)
                here.emit("residency", setup | {"working_set": working_set, "host_bytes": host_bytes}, result)
        finally:
            roomy.stop()
            tight.stop()


def measure(
    here: Stand,
    roomy: EngineRounds,
    tight: EngineRounds,
    adapters: Sequence[RandomAdapter],
    popularity: str,
    num_rows: int,
    rounds: int,
) -> dict[str, object]:
    texts = here.texts(num_rows)
    requests = here.requests(texts, adapters, popularity)
    check_answers(here.backbone, requests, tight.logits(requests))

    def contestant(engine: EngineRounds) -> Contestant:
        """Other adapters every round, the same for both engines."""
        return lambda index: engine.seconds(here.requests(texts, adapters, popularity, index))

    before = tight.stats()
    turns = take_turns({"roomy": contestant(roomy), "tight": contestant(tight)}, rounds, WARM_UPS)
    after, num_rounds = tight.stats(), rounds + WARM_UPS
    loads_per_round = (after.num_loads - before.num_loads) / num_rounds
    host_hits_per_round = (after.num_host_hits - before.num_host_hits) / num_rounds
    slower = turns.speed("roomy", "tight")
    stderr.print(
        f"{popularity}: {slower} × slower with {loads_per_round:.0f} loads a round, "
        f"{host_hits_per_round:.0f} of them from host memory"
    )
    return {
        "rows_per_s": {name: asdict(turns.per_s(name, num_rows)) for name in turns.seconds},
        "slower": asdict(slower),
        "loads_per_round": round(loads_per_round, 1),
        "host_hits_per_round": round(host_hits_per_round, 1),
    }


if __name__ == "__main__":
    typer.run(main)
