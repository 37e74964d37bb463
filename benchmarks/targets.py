"""What the project wants of its speed on a CPU, and where in the results it stands. Measures nothing.

What it wants on a GPU stands in `gpu_targets.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from results_lines import Measured, ResultLines

Find = Callable[[ResultLines], Measured | None]


@dataclass(frozen=True)
class Target:
    """A ratio, time or share that shall be at least, or at most, `wanted`."""

    title: str
    wanted: float
    is_floor: bool
    find: Find
    unit: str = ""
    digits: int = 2

    def is_met(self, measured: Measured) -> bool:
        return measured.median >= self.wanted if self.is_floor else measured.median <= self.wanted

    @property
    def shown(self) -> str:
        return f"{'≥' if self.is_floor else '≤'} {self.wanted:g}{self.unit}"


def targets() -> Iterator[Target]:
    for backbone, dtype, wanted in (
        ("minilm", "float32", 0.85),
        ("minilm", "bfloat16", 0.75),
        ("bert-base", "float32", 0.85),
        ("bert-base", "bfloat16", 0.75),
    ):
        title = f"engine, 256 distinct adapters / GEMM limit, {backbone}, {dtype}"
        yield at_least(title, wanted, "engine", "of_gemm_limit", backbone=backbone, dtype=dtype, num_adapters=256)
    for dtype in ("float32", "bfloat16"):
        for length, wanted in ((16, 0.95), (32, 0.95), (128, 0.9)):
            title = f"mixed pack / bare backbone packed, prefix of {length}, {dtype}"
            yield at_least(title, wanted, "prefix-lengths", "of_bare", f"prefix {length}", dtype=dtype)
    yield at_least("10,000 adapters / 1 adapter", 0.97, "adapter-counts", "of_one_adapter", "10000 uniform")
    yield at_least(
        "10,000 adapters, uniform / skewed", 0.95, "adapter-counts", "uniform_of_skewed", num_adapters=10_000
    )
    for popularity in ("uniform", "skewed"):
        title = f"working set of twice the room, {popularity}: slower by"
        yield at_most(title, 1.2, "residency", "slower", workload=popularity, unit=" ×")
    for peer, name in (("adapterhub", "AdapterHub BatchSplit"), ("peft", "PEFT, switching")):
        yield over(name, peer, "bfloat16", 5.0)
        yield over(name, peer, "float32", 3.5)
    yield over("transformers, one task, padded", "stock", "bfloat16", 2.5)
    yield over("ONNX Runtime, one task, float32", "onnx", "bfloat16", 1.3)
    yield over("ONNX Runtime, one task, int8", "onnx-int8", "bfloat16", 1.0)
    yield at_least(
        "HTTP, 64 callers / in process, bert-base",
        0.9,
        "http",
        "of_in_process",
        backbone="bert-base",
        http_workers=None,
    )
    for dtype in ("float32", "bfloat16"):
        yield Target(f"one row of 32 tokens alone / its GEMM floor, {dtype}", 2.0, False, _inverse_limit(dtype), " ×")
    yield Target("a second server process: rows per second of one", 1.1, False, _best_pair, " ×")
    for served, setup in (
        ("float32, half load", {"dtype": "float32", "load": 0.5}),
        ("bfloat16, a front end, quarter load", {"dtype": "bfloat16", "load": 0.25, "http_workers": 1}),
    ):
        title = f"p99 with 50 uploads and deletions a second / without, {served}"
        yield at_most(title, 1.2, "changes", "p99_ratio", unit=" ×", **setup)
    yield at_most("start with 10,000 adapters", 5.0, "start-up", "ready_s", num_adapters=10_000, unit=" s")
    for dtype in ("float32", "bfloat16"):
        for histogram, wanted in (("equal", 1.1), ("natural", 1.0)):
            title = f"training step / by hand on stock transformers, {histogram} lengths, {dtype}"
            setup = {"histogram": histogram, "dropout": False, "dtype": dtype}
            yield at_most(title, wanted, "training", "of_stock", unit=" ×", **setup)
    yield Target("scheduling, 10,000 rows queued, of a step's time", 5.0, False, _queue_percent, " %")


def at_least(title: str, wanted: float, benchmark: str, *path: str, unit: str = "", **setup: Any) -> Target:
    return Target(title, wanted, True, lambda results: results.of(benchmark, **setup).measured(*path), unit)


def at_most(title: str, wanted: float, benchmark: str, *path: str, unit: str = "", **setup: Any) -> Target:
    return Target(title, wanted, False, lambda results: results.of(benchmark, **setup).measured(*path), unit)


def over(name: str, peer: str, dtype: str, wanted: float) -> Target:
    title = f"{dtype} against {name}"
    return at_least(title, wanted, "contest", "speed", f"{dtype} / {peer}", unit=" ×", backbone="minilm")


def _inverse_limit(dtype: str) -> Find:
    def find(results: ResultLines) -> Measured | None:
        share = results.of("engine", rows=1, row_len=32, dtype=dtype, backbone="minilm").measured("of_gemm_limit")
        return None if share is None else Measured(1 / share.median, 1 / share.high, 1 / share.low, share.num_runs)

    return find


def _best_pair(results: ResultLines) -> Measured | None:
    """Of the ways to split the threads, the one that gains most."""
    pairs = [results.of("two-servers").measured("of_one", name) for name in ("two", "two with half the threads")]
    return max((pair for pair in pairs if pair is not None), key=lambda pair: pair.median, default=None)


def _queue_percent(results: ResultLines) -> Measured | None:
    share = results.of("queue").measured("overhead", "10000")
    return None if share is None else Measured(100 * share.median, 100 * share.low, 100 * share.high, share.num_runs)
