"""Options that many scripts here have."""

from __future__ import annotations

from typing import Annotated

import typer

from shapes import SHAPES

GIB = 1 << 30

Backbone = Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}, or a folder; all but minilm random.")]
Threads = Annotated[int | None, typer.Option(help="Of each process that computes; torch's own choice by default.")]
Commit = Annotated[str | None, typer.Option(help="Named in the output; git's HEAD by default.")]
Rounds = Annotated[int, typer.Option(help="In which everybody has a turn, besides those of the warm-up.")]
SliceSeconds = Annotated[float, typer.Option(help="Length of one load.")]
SentRows = Annotated[int, typer.Option(help="Different requests, sent in turn.")]
HttpWorkers = Annotated[int | None, typer.Option(help="Front-end processes. [default: the server's choice]")]
PackRows = Annotated[int, typer.Option(help="Per round.")]
ResidentGib = Annotated[int, typer.Option(help="Room for adapters on the device.")]
