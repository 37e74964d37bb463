"""Correct answers under churn: 16 callers, 50 adapters, uploads, replacements and deletions all the time for a minute.

Prints one JSON line on standard output, and fails if any answer is not the solo answer of the version that it names.
The run itself is `tests/churn_run.py`, of which the test suite does a short one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from machine import device_name, git_commit

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from churn_run import ChurnPlan, run_churn


def main(
    seconds: Annotated[float, typer.Option(help="Length of the run.")] = 60.0,
    clients: Annotated[int, typer.Option(help="Callers at once.")] = 16,
    adapters: Annotated[int, typer.Option(help="Names that are uploaded to.")] = 50,
    versions: Annotated[int, typer.Option(help="Uploads in all, each with weights of its own.")] = 600,
    min_answers: Annotated[int, typer.Option(help="The run goes on until as many were checked.")] = 2000,
    seed: int = 0,
) -> None:
    """Run the churn and print what was checked."""
    plan = ChurnPlan(clients, adapters, versions, min_answers, seconds, timeout_s=10 * seconds + 300, seed=seed)
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally, stats = asyncio.run(run_churn(plan, Path(folder)))
    counts = {"num_loads": stats.num_loads, "num_evictions": stats.num_evictions, "num_packs": stats.num_packs}
    result = asdict(tally) | counts | {"total_s": round(time.monotonic() - started_at, 1)}
    line = {
        "commit": git_commit(),
        "device": device_name("cpu"),
        "setup": {"benchmark": "churn"} | asdict(plan),
        "result": result,
    }
    typer.echo(json.dumps(line))


if __name__ == "__main__":
    typer.run(main)
