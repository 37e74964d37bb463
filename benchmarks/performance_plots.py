"""Pictures of the benchmarks' results, as SVG files. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

from peer_process import PEERS
from results_lines import Measured, ResultLines

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

OURS, THEIRS, BARE = "#1f6fb4", "#9aa5b1", "#8fc1e8"
# Title, the ratio of a mixed pack to it, colour.
GPU_BARS = (
    ("stock, padded", "mixed_of_stock_padded", THEIRS),
    ("mixed pack", "", OURS),
    ("bare backbone, packed", "mixed_of_bare", BARE),
)
mpl.rcParams |= {"svg.hashsalt": "prefixrack", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def draw_all(results: ResultLines, out: Path, page: str) -> dict[str, str]:
    """Write every picture of a page that there are results for. Returns titles by file name."""
    drawn = {}
    for kind, title, draw in (
        ("peers", "Rows per second, by contestant", draw_peers),
        ("adapters", "Speed by the number of adapters", draw_adapters),
        ("latency", "Latency by load", draw_latency),
    ):
        figure = draw(results)
        if figure is not None:
            name = f"{page}-{kind}.svg"
            figure.savefig(out / name, metadata={"Date": None})
            plt.close(figure)
            drawn[name] = title
    return drawn


def draw_gpu_page(results: ResultLines, path: Path) -> None:
    """Write the picture of docs/performance-gpu.md, if there are results for it."""
    figure = draw_gpu(results)
    if figure is not None:
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def contestants(results: ResultLines, backbone: str) -> Iterator[tuple[str, bool, Measured]]:
    """Title, whether it is ours, and rows per second; the fastest first."""
    contest = results.of("contest", backbone=backbone)
    names = sorted({name for value in contest.values("rows_per_s") for name in value if "texts" not in name})
    measured = {name: contest.measured("rows_per_s", name) for name in names}
    known = {name: rate for name, rate in measured.items() if rate is not None}
    for name, rate in sorted(known.items(), key=lambda item: -item[1].median):
        title = PEERS[name].title if name in PEERS else f"Prefixrack, {name}"
        yield title, name not in PEERS, rate


def draw_peers(results: ResultLines) -> Figure | None:
    panels = {shape: list(contestants(results, shape)) for shape in ("minilm", "bert-base")}
    panels = {shape: rows for shape, rows in panels.items() if rows}
    if not panels:
        return None
    figure, all_axes = plt.subplots(
        len(panels), 1, figsize=(8, 0.6 + 3.6 * len(panels)), layout="constrained", squeeze=False
    )
    for axes, (shape, rows) in zip(all_axes[:, 0], panels.items(), strict=True):
        rates = [rate for *_, rate in rows]
        errors = [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]
        colours = [OURS if is_ours else THEIRS for _, is_ours, _ in rows]
        axes.barh(
            [title for title, *_ in rows], [rate.median for rate in rates], xerr=errors, color=colours, ecolor="#333"
        )
        for place, rate in enumerate(rates):
            axes.annotate(
                f"{rate.median:.0f}", (rate.high, place), xytext=(4, 0), textcoords="offset points", va="center"
            )
        axes.invert_yaxis()
        axes.set_title(f"{shape}: 32 rows for 32 adapters, or for one task", loc="left", fontsize=10)
        axes.set_xlabel("rows per second (lines: quartiles over the rounds)")
    return figure


def draw_adapters(results: ResultLines) -> Figure | None:
    lines = results.of("adapter-counts")
    names = {name for value in lines.values("of_one_adapter") for name in value}
    points: Mapping[str, dict[int, Measured]] = {"uniform": {}, "skewed": {}}
    for name in names:
        count, popularity = name.split()
        measured = lines.measured("of_one_adapter", name)
        if measured is not None:
            points[popularity][int(count)] = measured
    if not points["uniform"]:
        return None
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (popularity, by_count), marker in zip(points.items(), "oD", strict=True):
        counts = sorted(by_count)
        medians = [by_count[count].median for count in counts]
        below = [by_count[count].median - by_count[count].low for count in counts]
        above = [by_count[count].high - by_count[count].median for count in counts]
        axes.errorbar(counts, medians, yerr=[below, above], marker=marker, capsize=3, label=popularity)
    axes.axhline(0.97, color="#c0392b", linewidth=1, linestyle="--", label="wanted: 0.97")
    axes.set_xscale("log")
    axes.set_xticks(list(points["uniform"]), [f"{count:,}" for count in points["uniform"]])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("adapters that rows are drawn from")
    axes.set_ylabel("speed, of that with one")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="lower left")
    return figure


def draw_latency(results: ResultLines) -> Figure | None:
    lines = results.of("latency")
    loads = sorted({load for value in lines.values("latency") for load in value}, key=float)
    if not loads:
        return None
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, marker in zip(("p50_ms", "p95_ms", "p99_ms"), "o^s", strict=True):
        draw_line(axes, lines, loads, name, marker)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("requests per second, % of what the server can do")
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    return figure


def draw_gpu(results: ResultLines) -> Figure | None:
    """Mixed packs of prefixes of 16 between stock transformers and the limit, by shape and lengths."""
    packs = results.of("gpu", prefix_len=16).lines
    if not packs:
        return None
    titles = [f"{line['setup']['shape']}, {line['setup']['histogram']}" for line in packs]
    figure, axes = plt.subplots(figsize=(8, 1.0 + 0.85 * len(packs)), layout="constrained")
    mixed = [line["result"]["mixed_of_gemm_limit"] for line in packs]
    for number, (title, mixed_of_it, colour) in enumerate(GPU_BARS):
        shares = [share / line["result"].get(mixed_of_it, 1.0) for share, line in zip(mixed, packs, strict=True)]
        places = [place + 0.26 * (number - 1) for place in range(len(packs))]
        bars = axes.barh(places, shares, height=0.24, color=colour, label=title)
        axes.bar_label(bars, [f"{share:.2f}" for share in shares], padding=3, fontsize=8)
    axes.set_yticks(range(len(packs)), titles)
    axes.invert_yaxis()
    axes.axvline(1.0, color="#c0392b", linewidth=1, linestyle="--")
    axes.set_xlabel("rows per second, of the GEMM limit (dashed)")
    axes.set_xlim(0, 1.05)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=len(GPU_BARS))
    return figure


def draw_line(axes: Axes, lines: ResultLines, loads: list[str], name: str, marker: str) -> None:
    measured: list[Any] = [lines.measured("latency", load, name) for load in loads]
    medians = [one.median for one in measured]
    axes.plot([100 * float(load) for load in loads], medians, marker=marker, label=name.removesuffix("_ms"))
