"""A mixed pack against the bare backbone on the same rows, packed alike, by prefix length.

Prints one JSON line; see README.md here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import numpy as np
import torch
import typer

from equality import check_answers
from options import Backbone, Commit, Rounds, Threads
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import PackRow
from stand import Stand, stand
from turns import Contestant, stderr, take_turns
from workload import Request
from yardsticks import seconds

WARM_UPS = 3


def main(
    prefix_len: Annotated[list[int] | None, typer.Option(help="[default: 16, 32, 128]")] = None,
    rows: Annotated[int, typer.Option(help="In the pack, each for an adapter of its own.")] = 64,
    dtype: str = "float32",
    device: str = "auto",
    threads: Threads = None,
    rounds: Rounds = 30,
    seed: int = 0,
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Time packs with prefixes and heads, and the backbone alone, in turn."""
    lengths = prefix_len or [16, 32, 128]
    with stand(backbone, dtype=dtype, device=device, threads=threads, seed=seed, commit=commit) as here:
        texts = sorted(here.texts(rows), key=len)
        packs = {length: here.requests(texts, here.adapters(rows, length), "distinct") for length in lengths}
        contestants = {f"prefix {length}": mixed(here, requests) for length, requests in packs.items()}
        turns = take_turns({"bare": bare(here, packs[lengths[0]]), **contestants}, rounds, WARM_UPS)
        result = {
            "rows_per_s": {name: asdict(turns.per_s(name, rows)) for name in turns.seconds},
            "of_bare": {name: asdict(turns.speed(name, "bare")) for name in contestants},
        }
        here.emit("prefix-lengths", {"rows": rows, "rounds": rounds}, result)
        for name in contestants:
            stderr.print(f"{name}: {turns.speed(name, 'bare')} of the bare backbone, packed")


def mixed(here: Stand, requests: Sequence[Request]) -> Contestant:
    """One pack of rows for different adapters, to their logits. Their outputs are checked first."""
    backbone = here.backbone
    pack = [
        PackRow(request.row, Adapter.load(request.adapter.folder, device=backbone.device, dtype=backbone.dtype))
        for request in requests
    ]
    check_answers(backbone, requests, np.stack(backbone.compute(pack)))
    return lambda _: seconds(lambda: backbone.compute(pack), backbone.device)


def bare(here: Stand, requests: Sequence[Request]) -> Contestant:
    """The same rows without prefixes and heads, to their hidden states."""
    rows = [request.row for request in requests]
    forward = torch.inference_mode()(lambda: here.backbone.hidden_states(rows, [None] * len(rows)))
    return lambda _: seconds(forward, here.backbone.device)


if __name__ == "__main__":
    typer.run(main)
