"""Every benchmark at a small size, peers included, in about half an hour on two cores: `make bench`.

Sets up the peers, runs one section after the other, each a script of this folder, and gathers their JSON lines in
OUT/bench.jsonl; then writes OUT/performance.md and its plots. Exits with 1 if a peer could not be set up that
`--without` does not name, or if a section failed. What can be run runs all the same.

With `--device cuda`, what `gpu.py` cannot measure without a server, in about five minutes, into OUT/bench-gpu.jsonl.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from machine import Busy, git_commit
from peer_process import PEERS, PEERS_FOLDER, peers_on
from server_process import check_load
from shapes import RANDOM_SHAPES, backbone_folder
from turns import stderr

HERE = Path(__file__).parent
IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Section:
    """A run of one script. `in_memory` puts its files where syncing them costs nothing: it times something else.

    `limit_s` ends it where it hangs, on a machine that is there for minutes only.
    """

    script: str
    options: str
    in_memory: bool = False
    limit_s: float | None = None

    def command(self, more: Iterable[str] = ()) -> list[str]:
        return [sys.executable, str(HERE / self.script), *self.options.split(), *more]


# Of a pack of 256 rows for as many adapters, and of one row alone; over HTTP, 64 connections.
PACK = "--path engine --workload distinct --rows 256 --num-adapters 256 --no-bare"
ALONE = "--path engine --workload identical --rows 1 --row-len 32 --no-bare --iterations 200"
SERVED = "--path http --workload uniform --rows 64 --num-adapters 64 --no-bare"

SECTIONS: Mapping[str, Section] = {
    "contest": Section("contest.py", "--rounds 10 --num-sets 3"),
    "engine": Section("throughput.py", f"{PACK} --iterations 20"),
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
    "changes-bfloat16-workers": Section("changes.py", "--dtype bfloat16 --http-workers 1 --load 0.25"),
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

# What the project wants on a GPU and `gpu.py` does not measure, in the order of what matters most.
LARGE = "--device cuda --dtype bfloat16 --backbone bert-large"
BASE = "--device cuda --dtype bfloat16 --backbone bert-base"
GPU_LIMIT_S = 150.0

GPU_SECTIONS: Mapping[str, Section] = {
    "residency": Section(
        "residency_pressure.py", f"{LARGE} --num-adapters 384 --rows 512 --rounds 12", limit_s=GPU_LIMIT_S
    ),
    "http-bert-base": Section("throughput.py", f"{SERVED} {BASE} --seconds 10", limit_s=GPU_LIMIT_S),
    "contest": Section(
        "contest.py", "--device cuda --backbone bert-large --rounds 6 --num-sets 1", limit_s=GPU_LIMIT_S
    ),
    "changes": Section(
        "changes.py", f"{LARGE} --num-adapters 64 --rounds 3 --seconds 4 --load 0.25", limit_s=GPU_LIMIT_S
    ),
    "two-servers": Section("two_servers.py", f"{LARGE} --num-adapters 64 --rounds 3 --seconds 3", limit_s=GPU_LIMIT_S),
}
SECTIONS_ON: Mapping[str, Mapping[str, Section]] = {"cpu": SECTIONS, "cuda": GPU_SECTIONS}
LINES_ON: Mapping[str, str] = {"cpu": "bench.jsonl", "cuda": "bench-gpu.jsonl"}


@dataclass
class Run:
    """What came of a whole run, so far. `backbones` is a folder that sections share, for weights written once."""

    device: str
    results: Path
    backbones: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(
    without: Annotated[list[str] | None, typer.Option(help=f"Peers left out, of {', '.join(PEERS)}.")] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(SECTIONS)}; on a GPU of {', '.join(GPU_SECTIONS)}; all by default."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path, typer.Option(help="Folder of the results, added to where it exists.")] = Path("build/bench"),
) -> None:
    """Run the benchmarks, and write their page where they are those of a CPU."""
    check_load()
    (device,) = check_names("device", [device], SECTIONS_ON)
    sections = SECTIONS_ON[device]
    chosen = check_names("section", section or list(sections), sections)
    left_out = check_names("peer", without or [], PEERS)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prefixrack-backbones-") as backbones:
        run = Run(device, out / LINES_ON[device], Path(backbones))
        for name in chosen:
            options = peer_options(run, left_out) if sections[name].script == "contest.py" else []
            run_section(run, name, sections[name], options)
    stderr.print(f"{len(run.lines)} results in {run.results}")
    if device == "cpu":
        from performance_page import write_page  # its plots' library is not wanted where there is no page

        write_page([run.results], out)
        stderr.print(f"their page is {out / 'performance.md'}")
    if run.failures:
        raise SystemExit("; ".join(run.failures))


def check_names(what: str, names: Sequence[str], known: Mapping[str, object]) -> list[str]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"there is no {what} {', '.join(unknown)}: they are {', '.join(known)}")
    return list(names)


def peer_options(run: Run, left_out: Sequence[str]) -> list[str]:
    """Set up the peers of the device; those that cannot be are left out like those that shall be.

    Beside a GPU they borrow the torch that is here: it is large, and made for this GPU's driver.
    """
    broken = []
    wanted = [name for name in peers_on(run.device) if name not in left_out]
    borrowing = {"BORROW": "1", "PYTHON": sys.executable} if run.device == "cuda" else {}
    for environment in sorted({PEERS[name].environment for name in wanted}):
        command = [str(PEERS_FOLDER / "setup"), environment]
        if subprocess.run(command, env=os.environ | borrowing, check=False).returncode:
            names = [name for name, peer in PEERS.items() if peer.environment == environment]
            broken += names
            run.failures.append(f"{environment} could not be set up: leave out {', '.join(names)} with --without")
    return [part for name in [*left_out, *broken] for part in ("--without", name)]


def run_section(run: Run, name: str, section: Section, more: Sequence[str]) -> None:
    """Its lines are written when it has ended, each with what other processes took of the machine meanwhile."""
    environment = dict(os.environ)
    if section.in_memory and IN_MEMORY.is_dir():
        environment["TMPDIR"] = str(IN_MEMORY)
    started_at, busy = time.monotonic(), Busy()
    stderr.print(f"[bold]{name}[/bold]")
    command = with_written_backbones(section.command(more), run.backbones)
    said, exit_code = run_group(command, environment, section.limit_s)
    lines = [json.loads(line) for line in said.splitlines()]
    others = busy.others_share()
    with run.results.open("a", encoding="utf-8") as file:
        for line in lines:
            line["commit"] = git_commit()
            line["result"]["others_cpu_share"] = others
            file.write(json.dumps(line) + "\n")
    run.lines += lines
    stderr.print(f"{name} took {time.monotonic() - started_at:.0f} s; other processes had {others:.0%} of the cores")
    if exit_code:
        run.failures.append(f"section {name} failed")


def with_written_backbones(command: Sequence[str], folder: Path) -> list[str]:
    """Names of random backbones become paths of them: large ones take a while to write."""
    for shape in RANDOM_SHAPES:
        if shape in command and not (folder / shape).is_dir():
            backbone_folder(shape, folder)
    return [str(folder / part) if part in RANDOM_SHAPES else part for part in command]


def run_group(command: Sequence[str], environment: Mapping[str, str], limit_s: float | None) -> tuple[str, int]:
    """What a command said and its exit code. Nothing of what it started is left, nor of one that takes too long."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            stderr.print(f"it was ended after {limit_s:.0f} s")
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return said, process.returncode


if __name__ == "__main__":
    typer.run(main)
