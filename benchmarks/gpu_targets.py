"""What the project wants of its speed on one GPU, and where in the results it stands. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from targets import Target, at_least, at_most

LARGE = "bert-large"
NATURAL = {"shape": LARGE, "histogram": "natural"}
COUNTS = (1, 100, 1_000, 10_000)


def gpu_targets() -> Iterator[Target]:
    """BERT-large in bfloat16 where nothing else is said; every number of adapters is the most that was measured."""
    yield packed("mixed pack / GEMM limit", 0.70, "mixed_of_gemm_limit", 16)
    for prefix_len, wanted in ((16, 0.95), (128, 0.90)):
        title = f"mixed pack / bare backbone packed, prefix of {prefix_len}"
        yield packed(title, wanted, "mixed_of_bare", prefix_len)
    yield packed("10,000 adapters / 1 adapter", 0.97, "most_of_one_adapter", 16, num_adapters=COUNTS)
    yield packed("10,000 adapters, uniform / skewed", 0.95, "uniform_of_skewed", 16, num_adapters=COUNTS)
    for popularity in ("uniform", "skewed"):
        title = f"working set of twice the room, {popularity}: slower by"
        yield at_most(title, 1.2, "residency", "slower", unit=" ×", backbone=LARGE, workload=popularity)
    for name, peer, wanted in (
        ("AdapterHub BatchSplit, 32 rows for 32 adapters", "adapterhub", 10.0),
        ("PEFT, switching, 32 rows for 32 adapters", "peft", 30.0),
    ):
        yield against(f"against {name}, in float32", peer, wanted)
        yield against(f"against {name}, in bfloat16", f"{peer}-bfloat16", wanted)
    yield packed("against transformers, one task, padded, in bfloat16", 2.5, "mixed_of_stock_padded", 16, " ×")
    yield at_least("HTTP, 64 callers / in process, bert-base", 0.85, "http", "of_in_process", backbone="bert-base")
    yield at_most("one row of 32 tokens alone", 2.0, "gpu-alone", "one_row_ms", unit=" ms", shape=LARGE, prefix_len=16)
    title = "a second server process: rows per second of one"
    yield at_most(title, 1.1, "two-servers", "of_one", "two", unit=" ×", backbone=LARGE)
    title = "p99 with 50 uploads and deletions a second / without"
    yield at_most(title, 1.2, "changes", "p99_ratio", unit=" ×", backbone=LARGE)


def packed(title: str, wanted: float, ratio: str, prefix_len: int, unit: str = "", **more: Any) -> Target:
    """Of a pack of natural lengths."""
    setup: dict[str, Any] = {**NATURAL, "prefix_len": prefix_len, **more}
    return replace(at_least(title, wanted, "gpu", ratio, unit=unit, **setup), digits=3)


def against(title: str, peer: str, wanted: float) -> Target:
    return at_least(title, wanted, "contest", "speed", f"bfloat16 / {peer}", unit=" ×", backbone=LARGE)
