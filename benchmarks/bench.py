"""Every benchmark at a small size, peers included, in about a quarter of an hour on two cores: `make bench`.

Sets up the peers, runs one section after the other, each a script of this folder, and gathers their JSON lines in
OUT/bench.jsonl; then writes OUT/performance.md and its plots. Exits with 1 if a peer could not be set up that
`--without` does not name, or if a section failed. What can be run runs all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from machine import Busy, git_commit
from peer_process import PEERS, PEERS_FOLDER
from performance_page import write_page
from server_process import check_wrk
from turns import stderr

HERE = Path(__file__).parent
IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Section:
    """A run of one script. `in_memory` puts its files where syncing them costs nothing: it times something else."""

    script: str
    options: str
    in_memory: bool = False

    def command(self, more: Iterable[str] = ()) -> list[str]:
        return [sys.executable, str(HERE / self.script), *self.options.split(), *more]


# Of a pack of 256 rows for as many adapters, and of one row alone; over HTTP, 64 connections.
PACK = "--path engine --workload distinct --rows 256 --num-adapters 256 --no-bare"
ALONE = "--path engine --workload identical --rows 1 --row-len 32 --no-bare --iterations 200"
SERVED = "--path http --workload uniform --rows 64 --num-adapters 64 --no-bare"

SECTIONS: Mapping[str, Section] = {
    "contest": Section("contest.py", "--rounds 10 --num-sets 3"),
    "engine": Section("throughput.py", f"{PACK} --iterations 10"),
    "engine-bfloat16": Section("throughput.py", f"{PACK} --iterations 20 --dtype bfloat16"),
    "one-row": Section("throughput.py", ALONE),
    "one-row-bfloat16": Section("throughput.py", f"{ALONE} --dtype bfloat16"),
    "prefix-lengths": Section("prefix_lengths.py", "--rounds 20"),
    "prefix-lengths-bfloat16": Section("prefix_lengths.py", "--rounds 20 --dtype bfloat16"),
    "adapters": Section("many_adapters.py", "--rounds 15", in_memory=True),
    "residency": Section("residency_pressure.py", "--rounds 15"),
    "http": Section("throughput.py", SERVED),
    "latency": Section("latency.py", ""),
    "changes": Section("changes.py", ""),
    "fan-out": Section("fan_out.py", ""),
    "protocols": Section("protocols.py", ""),
    "two-servers": Section("two_servers.py", "--rounds 4"),
    "start-up": Section("start_up.py", "--prefix-len 2", in_memory=True),
    "memory": Section("throughput.py", "--memory", in_memory=True),
    "precision": Section("precision.py", "--family bert --dtype bfloat16 --rows 64"),
    "training": Section("training.py", "--histogram equal --histogram natural --rounds 4 --steps 4"),
    "churn": Section("churn.py", "--seconds 10 --versions 100 --min-answers 500"),
    "engine-bert-base": Section("throughput.py", f"{PACK} --iterations 3 --backbone bert-base"),
    "engine-bert-base-bfloat16": Section(
        "throughput.py", f"{PACK} --iterations 5 --backbone bert-base --dtype bfloat16"
    ),
    "http-bert-base": Section("throughput.py", f"{SERVED} --backbone bert-base"),
    "http-bert-base-workers": Section("throughput.py", f"{SERVED} --backbone bert-base --http-workers 1"),
    "contest-bert-base": Section("contest.py", "--backbone bert-base --rounds 4 --num-sets 1"),
}


@dataclass
class Run:
    """What came of a whole run."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(
    without: Annotated[list[str] | None, typer.Option(help=f"Peers left out, of {', '.join(PEERS)}.")] = None,
    section: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SECTIONS)}; all by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, added to where it exists.")] = Path("build/bench"),
) -> None:
    """Run the benchmarks and write their page."""
    check_wrk()
    chosen = check_names("section", section or list(SECTIONS), SECTIONS)
    left_out = check_names("peer", without or [], PEERS)
    out.mkdir(parents=True, exist_ok=True)
    run = Run()
    for name in chosen:
        options = peer_options(run, left_out) if SECTIONS[name].script == "contest.py" else []
        run_section(run, name, options, out)
    write_page([out / "bench.jsonl"], out)
    stderr.print(f"{len(run.lines)} results in {out / 'bench.jsonl'}, their page is {out / 'performance.md'}")
    if run.failures:
        raise SystemExit("; ".join(run.failures))


def check_names(what: str, names: Sequence[str], known: Mapping[str, object]) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"there is no {what} {', '.join(unknown)}: they are {', '.join(known)}")
    return list(names)


def peer_options(run: Run, left_out: Sequence[str]) -> list[str]:
    """Set up the peers; those that cannot be are left out like those that shall be."""
    broken = []
    for environment in sorted({peer.environment for name, peer in PEERS.items() if name not in left_out}):
        if subprocess.run([PEERS_FOLDER / "setup", environment], check=False).returncode:
            names = [name for name, peer in PEERS.items() if peer.environment == environment]
            broken += names
            run.failures.append(f"{environment} could not be set up: leave out {', '.join(names)} with --without")
    return [part for name in [*left_out, *broken] for part in ("--without", name)]


def run_section(run: Run, name: str, more: Sequence[str], out: Path) -> None:
    """Its lines are written as they come, each with what other processes took of the machine meanwhile."""
    section = SECTIONS[name]
    environment = dict(os.environ)
    if section.in_memory and IN_MEMORY.is_dir():
        environment["TMPDIR"] = str(IN_MEMORY)
    started_at, busy = time.monotonic(), Busy()
    stderr.print(f"[bold]{name}[/bold]")
    done = subprocess.run(section.command(more), env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    others = busy.others_share()
    with (out / "bench.jsonl").open("a", encoding="utf-8") as file:
        for line in lines:
            line["commit"] = git_commit()
            line["result"]["others_cpu_share"] = others
            file.write(json.dumps(line) + "\n")
    run.lines += lines
    stderr.print(f"{name} took {time.monotonic() - started_at:.0f} s; other processes had {others:.0%} of the cores")
    if done.returncode:
        run.failures.append(f"section {name} failed")


if __name__ == "__main__":
    typer.run(main)
