"""The lines of a GPU as a page with a picture, docs/performance-gpu.md: wanted and measured. Measures nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_targets import gpu_targets
from performance_page import paragraph
from performance_plots import draw_gpu_page
from results_lines import Line, ResultLines
from targets import Target

ROOT = Path(__file__).resolve().parent.parent
# Of `gpu.py`, and of `bench.py --device cuda` once there was a GPU for it.
RESULTS = [ROOT / "benchmarks" / "results" / name for name in ("gpu-cuda.jsonl", "bench-cuda.jsonl")]
PICTURE = "performance-gpu.svg"  # beside the page
PAGE = ROOT / "docs" / "performance-gpu.md"


@dataclass(frozen=True)
class Column:
    """A ratio of a mixed pack, and how much it shall be at least, by prefix length."""

    title: str
    key: str
    wanted: Callable[[int], float]
    least_numbers: int = 1  # of adapters that it takes: with one, the most would be compared with themselves

    def cell(self, line: Line) -> str:
        value = line["result"].get(self.key)
        if value is None or len(line["setup"]["num_adapters"]) < self.least_numbers:
            return "–"
        return f"{value:.2f}" if value >= self.wanted(line["setup"]["prefix_len"]) else f"**{value:.2f}**"


COLUMNS = (
    Column(
        "of the GEMM limit (≥ 0.70 at 16)", "mixed_of_gemm_limit", lambda prefix_len: 0.70 if prefix_len <= 16 else 0
    ),
    Column(
        "of the bare backbone (≥ 0.95, at 128 ≥ 0.90)", "mixed_of_bare", lambda length: 0.95 if length <= 32 else 0.90
    ),
    Column("most adapters / fewest (≥ 0.97)", "most_of_one_adapter", lambda _: 0.97, least_numbers=2),
    Column("uniform / skewed (≥ 0.95)", "uniform_of_skewed", lambda _: 0.95),
    Column("× stock, padded (≥ 2.5)", "mixed_of_stock_padded", lambda _: 2.5),
)


WANTED = """
    BERT-large, and ours in bfloat16, where nothing else is said. Prefixes have 16 vectors, lengths are natural.
"""


def page(results: ResultLines) -> str:
    packs, alone = results.of("gpu").lines, results.of("gpu-alone").lines
    devices = ", ".join(sorted({line["device"] for line in results.lines}))
    commits = ", ".join(sorted({short_commit(line) for line in results.lines}))
    heading = f"""
        Written by `benchmarks/gpu_page.py` from lines of `benchmarks/gpu.py` and `benchmarks/bench.py --device cuda`
        (`make bench-gpu`) on {devices}, commit {commits}. Backbones have published shapes and random weights, in
        bfloat16. How each number comes about stands in [benchmarks/README.md](../benchmarks/README.md), what bounds it
        in [benchmarks/NOTES.md](../benchmarks/NOTES.md).
    """
    packs_heading = """
        A pack has 8,192 tokens in rows of a
        data set's lengths (natural: lognormal(3.2, 0.6), 6 to 128); every row draws its adapter from all there are,
        each with a prefix and a head of its own. The GEMM limit is the linear layers alone. What is below the wanted
        number is bold. Lines of commit 2b824c2ce are of the attention kernel before, and of a limit that was launched
        product by product; DeBERTa's of commit 30c16e3ea are of its layers before they were fused.
    """
    few = """
        A row of 32 tokens alone (wanted: 2 ms for BERT-large), and 32 rows of 32 adapters against a call of stock
        transformers for each of them, with its prefix as `past_key_values` (wanted: 30 times as fast).
    """
    title = "# How fast is it on a GPU"
    picture = f"![Rows per second of mixed packs, of the GEMM limit, prefixes of 16]({PICTURE})"
    wanted = ["## Wanted and measured", "", *paragraph(WANTED), *target_table(results), ""]
    full = ["## Full packs", "", *paragraph(packs_heading), *pack_table(packs), "", picture, ""]
    return "\n".join(
        [title, "", *paragraph(heading), *wanted, *full, "## Few rows", "", *paragraph(few), *alone_table(alone), ""]
    )


def target_table(results: ResultLines) -> Iterator[str]:
    yield "| what | wanted | measured | |"
    yield "| --- | ---: | ---: | --- |"
    for target in gpu_targets():
        yield f"| {target.title} | {target.shown} | {' | '.join(measured_cells(target, results))} |"


def measured_cells(target: Target, results: ResultLines) -> tuple[str, str]:
    """The value, with quartiles where there are any, and whether it is what is wanted."""
    measured = target.find(results)
    if measured is None:
        return "–", "not measured yet"
    is_one_number = measured.low == measured.high
    value = f"{measured.median:.{target.digits}f}" if is_one_number else measured.shown(target.digits)
    return f"{value}{target.unit}", "met" if target.is_met(measured) else "**missed**"


def pack_table(lines: Sequence[Line]) -> Iterator[str]:
    titles = " | ".join(column.title for column in COLUMNS)
    yield f"| shape | lengths | prefix | adapters | rows/s | {titles} | commit |"
    yield "| --- | --- | ---: | ---: | ---: |" + " ---: |" * len(COLUMNS) + " --- |"
    for line in lines:
        setup = line["setup"]
        most = setup["num_adapters"][-1]
        shown: list[Any] = [setup["shape"], setup["histogram"], setup["prefix_len"], f"{most:,}"]
        shown.append(f"{line['result']['rows_per_s'][f'uniform {most}']:,.0f}")
        shown += [*(column.cell(line) for column in COLUMNS), short_commit(line)]
        yield f"| {' | '.join(map(str, shown))} |"


def alone_table(lines: Sequence[Line]) -> Iterator[str]:
    yield "| shape | prefix | one row, ms | 32 rows, ms | × a call for each | commit |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for line in lines:
        setup, result = line["setup"], line["result"]
        ratio = result.get("of_a_call_for_each")
        times = f"{result['one_row_ms']:.2f} | {result['rows_32_ms']:.2f} | {'–' if ratio is None else f'{ratio:.0f}'}"
        yield f"| {setup['shape']} | {setup['prefix_len']} | {times} | {short_commit(line)} |"


def short_commit(line: Line) -> str:
    commit: str = line["commit"]
    return commit[:9]


def committed_results() -> ResultLines:
    return ResultLines.read_existing(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, action="append", help="files of lines; the committed ones by default")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    results = ResultLines.read(arguments.results) if arguments.results else committed_results()
    arguments.page.write_text(page(results), encoding="utf-8")
    draw_gpu_page(results, arguments.page.with_name(PICTURE))


if __name__ == "__main__":
    main()
