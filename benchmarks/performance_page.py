"""The lines of `bench.py` as a page with plots: by default those of docs/. Measures nothing."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from peer_process import PEERS
from performance_plots import draw_all
from results_lines import Line, Measured, ResultLines
from targets import targets

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MIB = 1 << 20
Rows = Iterator[str]


class Page(NamedTuple):
    """A committed page: its lines in `results/`, and what it is called."""

    results: str
    title: str


PAGES: Mapping[str, Page] = {
    "performance": Page("bench-cpu.jsonl", "How fast is it"),
    "performance-amx": Page("bench-amx-cpu.jsonl", "How fast is it on a CPU with matrix tiles"),
}


def main(
    results: Annotated[list[Path] | None, typer.Option(help="Files of lines. [default: the committed ones]")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page and its plots.")] = ROOT / "docs",
) -> None:
    """Write the page again from its results."""
    if results:
        write_page(results, out)
        return
    for name, committed in PAGES.items():
        path = RESULTS / committed.results
        if not path.is_file():
            raise SystemExit(
                f"there is no {path}: name files with --results, such as build/bench/bench.jsonl of `make bench`"
            )
        write_page([path], out, name)


def write_page(paths: Sequence[Path], out: Path, name: str = "performance") -> None:
    """`name` is one of `PAGES`; the pictures' names begin with it."""
    results = ResultLines.read(paths)
    plots = draw_all(results, out, name)
    (out / f"{name}.md").write_text(page(results, plots, name), encoding="utf-8")


def page(results: ResultLines, plots: dict[str, str], name: str = "performance") -> str:
    pictures = {plot: f"![{title}]({plot})" for plot, title in plots.items()}
    parts = [
        f"# {PAGES[name].title}",
        "",
        *heading(results),
        "## Wanted and measured",
        "",
        *target_table(results),
        "",
        "## Against others",
        "",
        *peers_section(results),
        pictures.get(f"{name}-peers.svg", ""),
        "",
        "## Many adapters",
        "",
        *counts_table(results),
        "",
        pictures.get(f"{name}-adapters.svg", ""),
        "",
        "## Over HTTP",
        "",
        *http_section(results),
        "",
        *latency_table(results),
        "",
        pictures.get(f"{name}-latency.svg", ""),
        "",
        *changes_section(results),
        "",
        "## One request for many adapters",
        "",
        *fan_out_table(results),
        "",
        "## Start and memory",
        "",
        *start_section(results),
        "",
        "## Precision and churn",
        "",
        *correctness_section(results),
        "",
    ]
    return "\n".join(parts)


def paragraph(text: str) -> Rows:
    yield from textwrap.wrap(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)
    yield ""


def heading(results: ResultLines) -> Rows:
    devices = sorted({line["device"] for line in results.lines})
    commits = sorted({line["commit"][:9] for line in results.lines})
    others = [line["result"].get("others_cpu_share", 0.0) for line in results.lines]
    yield from paragraph(f"""
        Written by `benchmarks/performance_page.py` from lines that `benchmarks/bench.py` (`make bench`) measured.
        Device: {"; ".join(devices)}. Commit: {", ".join(commits)}. While a section ran, other processes had
        {min(others, default=0):.0%} to {max(others, default=0):.0%} of the cores: everything that is compared was
        measured in turns, and only ratios mean anything. In brackets: the quartiles over the rounds, the widest of all
        runs.
    """)
    yield from paragraph("""
        MiniLM is the packaged backbone (6 layers, 384 wide); BERT-base has that shape and random weights. Texts have
        natural lengths (lognormal(3.2, 0.6), 6 to 128 tokens); prefixes have 16 vectors where nothing else is said. How
        each number comes about stands in [benchmarks/README.md](../benchmarks/README.md); what bounds it, and what was
        tried, in [benchmarks/NOTES.md](../benchmarks/NOTES.md).
    """)


def target_table(results: ResultLines) -> Rows:
    yield "| what | wanted | measured | | runs |"
    yield "| --- | ---: | ---: | --- | ---: |"
    for target in targets():
        measured = target.find(results)
        if measured is None:
            yield f"| {target.title} | {target.shown} | – | not measured | 0 |"
            continue
        mark = "met" if target.is_met(measured) else "**missed**"
        shown = f"{measured.shown(target.digits)}{target.unit}"
        yield f"| {target.title} | {target.shown} | {shown} | {mark} | {measured.num_runs} |"


def peers_section(results: ResultLines) -> Rows:
    yield from paragraph("""
        Each peer in a process and a virtual environment of its own, all taking turns on the same texts; outputs were
        compared with ours in float32 before anything was timed (*difference*: the largest, relative to the largest
        output). Peers compute in float32 where nothing else is said. *One task* is a single fine-tuned model without
        adapters: less than what the others do. Infinity takes texts; ours is timed from texts against it.
    """)
    for backbone in ("minilm", "bert-base"):
        contest = results.of("contest", backbone=backbone)
        if contest.lines:
            yield from peers_table(contest, backbone)
            yield ""


def peers_table(contest: ResultLines, backbone: str) -> Rows:
    dtypes = sorted({dtype for line in contest.lines for dtype in line["setup"]["dtype"]}, reverse=True)
    ours = ", ".join(f"{dtype} {shown(contest.measured('rows_per_s', dtype), 0)}" for dtype in dtypes)
    yield f"{backbone}, Prefixrack's rows per second: {ours}."
    yield ""
    speeds = " | ".join(f"ours in {dtype} is faster by" for dtype in dtypes)
    yield f"| peer | rows per second | {speeds} | difference | versions |"
    yield "| --- | ---: |" + " ---: |" * len(dtypes) + " ---: | --- |"
    for name, peer in PEERS.items():
        rate = contest.measured("rows_per_s", name)
        if rate is None:
            continue
        speeds = " | ".join(f"{shown(contest.measured('speed', f'{dtype} / {name}'))} ×" for dtype in dtypes)
        differences, versions = contest.values("difference", name), contest.values("versions", name)[-1]
        told = ", ".join(f"{package} {version}" for package, version in versions.items())
        yield f"| {peer.title} | {rate.shown(0)} | {speeds} | {max(differences):.0e} | {told} |"


def counts_table(results: ResultLines) -> Rows:
    lines = results.of("adapter-counts")
    names = list(dict.fromkeys(name for value in lines.values("rows_per_s") for name in value))
    yield "All adapters are resident; every round draws others."
    yield ""
    yield "| adapters, popularity | rows per second | of the speed with one |"
    yield "| --- | ---: | ---: |"
    for name in names:
        rate, share = lines.measured("rows_per_s", name), lines.measured("of_one_adapter", name)
        yield f"| {name} | {shown(rate, 0)} | {shown(share)} |"
    yield ""
    yield "| rows queued | what a step takes beside its packs | microseconds to submit a row |"
    yield "| ---: | ---: | ---: |"
    queue = results.of("queue")
    for queued in list(dict.fromkeys(name for value in queue.values("overhead") for name in value)):
        overhead, submit = queue.measured("overhead", queued), queue.measured("submit_us_per_row", queued)
        yield f"| {int(queued):,} | {percent(overhead)} | {shown(submit, 1)} |"
    yield ""
    yield "| twice as many adapters as there is room for | slower by | loads a round of 128 rows |"
    yield "| --- | ---: | ---: |"
    for popularity in ("uniform", "skewed"):
        line = results.of("residency", workload=popularity)
        yield f"| {popularity} | {shown(line.measured('slower'))} × | {shown(line.measured('loads_per_round'), 0)} |"


def http_section(results: ResultLines) -> Rows:
    yield "64 connections, one row a request, sent by `wrk` (whose own CPU is named), against the engine in process."
    yield "*Front ends*: processes of their own for HTTP, feeding an engine process; none is one process for all."
    yield ""
    yield "| backbone | dtype | front ends | rows per second | of in process | of the GEMM limit | `wrk`, of one core |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    every = results.of("http")
    setups = {
        (line["setup"]["backbone"], line["setup"]["dtype"], line["setup"]["http_workers"]) for line in every.lines
    }
    for backbone, dtype, workers in sorted(setups, key=str, reverse=True):
        lines = every.of("http", backbone=backbone, dtype=dtype, http_workers=workers)
        names = ("rows_per_s", "of_in_process", "of_gemm_limit", "wrk_cpu_share")
        cells = [shown(lines.measured(name), 0 if name == "rows_per_s" else 2) for name in names]
        yield f"| {backbone} | {dtype} | {'none' if workers is None else workers} | {' | '.join(cells)} |"
    yield ""
    for name, measured in (
        (name, results.of("two-servers").measured("of_one", name)) for name in ("two", "two with half the threads")
    ):
        yield f"A second server process beside the first ({name}): {shown(measured)} of one's rows per second.  "


def latency_table(results: ResultLines) -> Rows:
    lines = results.of("latency")
    yield from paragraph(f"""
        Open-loop: requests are sent at Poisson times whatever has been answered, and a latency counts from when its
        request was due. MiniLM; the server can do {shown(lines.measured("capacity_rows_per_s"), 0)} rows per second.
    """)
    yield "| load | p50, ms | p95, ms | p99, ms | late, p99, ms |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for load in sorted({load for value in lines.values("latency") for load in value}, key=float):
        cells = [lines.measured("latency", load, name) for name in ("p50_ms", "p95_ms", "p99_ms", "late_p99_ms")]
        yield f"| {float(load):.0%} | {' | '.join(medians(cells))} |"


def changes_section(results: ResultLines) -> Rows:
    """A paragraph for each way to serve."""
    groups: defaultdict[tuple[str, int | None, float], list[Line]] = defaultdict(list)
    for line in results.of("changes").lines:
        setup = line["setup"]
        groups[setup["dtype"], setup.get("http_workers"), setup["load"]].append(line)
    for (dtype, http_workers, load), of_group in groups.items():
        lines, changes_per_s = ResultLines(of_group), of_group[-1]["setup"]["changes_per_s"]
        served = dtype if http_workers is None else f"{dtype} (front ends: {http_workers})"
        yield from paragraph(f"""
            Beside {changes_per_s:g} uploads and deletions a second, p99 of adapters that are ready is
            {shown(lines.measured("p99_ratio"))} times that without ({shown(lines.measured("p99_ms", "quiet"), 1)} ms),
            in {served} at {load:.0%} load ({shown(lines.measured("rows_per_s"), 0)} rows per second). An upload takes
            {shown(lines.measured("upload", "p50_ms"), 0)} ms in the median.
        """)


def fan_out_table(results: ResultLines) -> Rows:
    lines = results.of("fan-out")
    yield "| adapters | rows per second, one request | rows per second, a request each, at once | faster by |"
    yield "| ---: | ---: | ---: | ---: |"
    for width in list(dict.fromkeys(name for value in lines.values("of_single_requests") for name in value)):
        rates = [shown(lines.measured("rows_per_s", f"{width} {how}"), 0) for how in ("in one", "alone")]
        yield f"| {width} | {' | '.join(rates)} | {shown(lines.measured('of_single_requests', width))} × |"


def start_section(results: ResultLines) -> Rows:
    lines, memory = results.of("start-up"), results.of("memory")
    if lines.lines:
        ready, ready_without = (shown(lines.measured(name)) for name in ("ready_s", "ready_without_adapters_s"))
        rss, rss_without = (mib(lines.measured(name)) for name in ("rss_bytes", "rss_without_adapters_bytes"))
        num_adapters = lines.lines[-1]["setup"]["num_adapters"]
        yield f"| | {num_adapters:,} adapters registered | none |"
        yield "| --- | ---: | ---: |"
        yield f"| ready after, seconds | {ready} | {ready_without} |"
        yield f"| resident memory, MiB | {rss} | {rss_without} |"
        yield ""
        first_ms = shown(lines.measured("first_answer_ms"), 1)
        yield from paragraph(f"The first answer of one of them takes {first_ms} ms, loading it included.")
    if memory.lines:
        setup, extra = memory.lines[-1]["setup"], mib(memory.measured("extra_bytes"))
        yield from paragraph(f"""
            With {setup["num_adapters"]:,} registered and {setup["num_resident"]} resident, a server takes {extra} MiB
            more than a process with the stock backbone alone.
        """)


def correctness_section(results: ResultLines) -> Rows:
    yield "| backbone, random weights | dtype | logits, relative difference | decisions changed |"
    yield "| --- | --- | ---: | ---: |"
    for line in results.of("precision", adapter="random", outliers=False).lines:
        setup, drift = line["setup"], line["result"]
        changed = f"{drift['decisions_changed']} of {drift['decisions']}"
        yield f"| {setup['backbone']} | {setup['dtype']} | {drift['logits']['relative']:.1e} | {changed} |"
    yield ""
    for line in results.of("churn").lines[-1:]:
        tally = line["result"]
        yield from paragraph(f"""
            Under churn, {tally["num_answers"]:,} answers were each that of the version that they name, beside
            {tally["num_uploads"]} uploads, {tally["num_deletions"]} deletions and {tally["num_evictions"]:,} evictions.
        """)


def shown(measured: Measured | None, digits: int = 2) -> str:
    return "–" if measured is None else measured.shown(digits)


def medians(cells: Sequence[Measured | None]) -> list[str]:
    return ["–" if cell is None else f"{cell.median:.1f}" for cell in cells]


def percent(measured: Measured | None) -> str:
    return "–" if measured is None else f"{measured.median:.2%}"


def mib(measured: Measured | None) -> str:
    if measured is None:
        return "–"
    return f"{measured.median / MIB:,.0f}"


if __name__ == "__main__":
    typer.run(main)
