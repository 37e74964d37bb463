"""The page of the comparison of methods: which lines make a cell, what is said of them, and that it is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quality_lines import expected
from quality_table import SIZES, cells_of, least_minutes, mean_difference, page, tried
from results_lines import ResultLines

ROOT = Path(__file__).resolve().parents[2]


def line(
    score: float, method: str = "p-tuning-v2", seed: int = 13, seconds: float = 60.0, name: str = "snli", **changes: Any
) -> dict[str, Any]:
    """At the recipe, but for the changes, on a CPU."""
    setup = {"dataset": name, "method": method, "seed": seed, "num_train": 2000, "num_dev": 500}
    sizes = {"max_train": SIZES[0][0], "max_dev": SIZES[0][1], "changes": changes}
    result = {"main": "accuracy", "score": score, "majority": {"accuracy": 0.4}, "seconds": seconds, "best_epoch": 1}
    counts = {"num_trained": 1, "num_backbone": 100, "history": [score]}
    settings = expected(setup, {})
    return {"device": "a CPU", "setup": setup | sizes | {"settings": settings}, "result": result | counts}


def test_a_cell_is_the_mean_over_its_seeds() -> None:
    lines = [line(0.7, seed=13), line(0.8, seed=14), line(0.1, seed=15, prefix_len=4)]
    cells = cells_of(lines, SIZES[0])
    assert list(cells) == [("snli", "p-tuning-v2")]
    assert cells["snli", "p-tuning-v2"].shown == "75.0 ± 7.1"
    assert cells_of([line(0.7)], SIZES[0])["snli", "p-tuning-v2"].shown == "70.0"
    listed = list(tried(lines))[2:]
    assert listed == ["| snli | 2,000 / 500 | PT-2 | prefix_len 4 | 15 | 10.0 | 1 of 1 |"]


def test_differences_are_over_the_data_sets_that_have_both() -> None:
    lines = [line(0.5), line(0.6, "fine-tuning"), line(0.9, name="copa"), line(0.1, "fine-tuning", name="wsc")]
    cells = cells_of(lines, SIZES[0])
    seen = mean_difference(cells, "p-tuning-v2", "fine-tuning", ("snli", "copa", "wsc"))
    assert seen is not None
    assert seen[0] == pytest.approx(-10)
    assert seen[1] == 1
    assert mean_difference(cells, "p-tuning-v2", "multitask", ("snli", "copa", "wsc")) is None


def test_what_is_said_of_cells_with_few_seeds() -> None:
    """A GPU's minutes say nothing of a CPU's."""
    whole = [line(0.7, seed=seed, seconds=30.0) for seed in (13, 14, 15)]
    on_gpu = line(0.7, "prompt-tuning", seconds=6.0) | {"device": "NVIDIA H200"}
    assert least_minutes([*whole, on_gpu], SIZES[0]) is None
    assert "fewer than three seeds" not in page(whole, "a.svg", "b.svg")
    short = [*whole, on_gpu, line(0.7, "head-only", seconds=719.0), line(0.7, "fine-tuning", seconds=900.0)]
    assert least_minutes(short, SIZES[0]) == pytest.approx(719 / 60)
    assert "a run takes one core of a CPU 11 minutes or more" in page(short, "a.svg", "b.svg")


def test_the_page_is_that_of_the_results() -> None:
    lines = ResultLines.read(sorted((ROOT / "benchmarks" / "results").glob("quality-*.jsonl"))).lines
    assert page(lines, "quality.svg", "sweep.svg") == (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
