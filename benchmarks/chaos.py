"""What two replicas do while one of them, their database, a blob or their disk goes away; how fast a rollback is, how
even a canary's share, and whether a rolling restart behind a balancer is seen.

Prints one JSON line a phase, and fails on a wrong answer, a wrong status code or a version that was lost. The run
itself is `tests/chaos_run.py`; on a quiet machine, as root where the disk is to be filled.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from machine import device_name, git_commit

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from chaos_run import ChaosPlan, run_chaos


def main(
    callers: Annotated[int, typer.Option(help="Callers at once.")] = 4,
    versions: Annotated[int, typer.Option(help="Versions that may be uploaded.")] = 1000,
    moves: Annotated[int, typer.Option(help="Moves of an alias that are followed.")] = 20,
    calm: Annotated[float, typer.Option(help="Seconds of load before and after each event.")] = 5.0,
    outage: Annotated[float, typer.Option(help="Seconds without a database.")] = 5.0,
    split: Annotated[int, typer.Option(help="Requests to a canary with keys; as many without.")] = 20_000,
    seed: int = 0,
) -> None:
    """Run the chaos and print what was seen."""
    plan = ChaosPlan(callers, versions, moves, calm, outage, split, seed)
    setup = {"benchmark": "chaos"} | asdict(plan)
    with tempfile.TemporaryDirectory() as folder:
        for result in run_chaos(plan, Path(folder)):
            line = {"commit": git_commit(), "device": device_name("cpu"), "setup": setup, "result": result}
            typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
