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
from options import Backbone, Commit, PackRows, Rounds, Threads
from stand import Stand, stand
from turns import Contestant, stderr, take_turns
from workload import RandomAdapter

WARM_UPS = 3
POPULARITIES = ("uniform", "skewed")


def main(
    num_adapters: int = 512,
    rows: PackRows = 128,
    working_set: Annotated[float, typer.Option(help="Room that all adapters take, by the room there is.")] = 2.0,
    prefix_len: int = 16,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 20,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Time an engine with too little room and one with enough in turn."""
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        roomy = EngineRounds(here.backbone, adapters, here.threads)
        roomy.make_resident(adapters)
        budget_bytes = int(roomy.stats().resident_bytes / working_set)
        tight = EngineRounds(here.backbone, adapters, here.threads, resident_bytes=budget_bytes)
        try:
            for popularity in POPULARITIES:
                setup = {"num_adapters": num_adapters, "rows": rows, "prefix_len": prefix_len, "workload": popularity}
                result = measure(here, roomy, tight, adapters, popularity, rows, rounds)
                here.emit("residency", setup | {"working_set": working_set}, result)
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

    loads_before = tight.stats().num_loads
    turns = take_turns({"roomy": contestant(roomy), "tight": contestant(tight)}, rounds, WARM_UPS)
    num_loads = tight.stats().num_loads - loads_before
    slower = turns.speed("roomy", "tight")
    stderr.print(f"{popularity}: {slower} × slower with {num_loads / (rounds + WARM_UPS):.0f} loads a round")
    return {
        "rows_per_s": {name: asdict(turns.per_s(name, num_rows)) for name in turns.seconds},
        "slower": asdict(slower),
        "loads_per_round": round(num_loads / (rounds + WARM_UPS), 1),
    }


if __name__ == "__main__":
    typer.run(main)
