"""The page of the GPU: the committed one is that of the committed lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpu_page import PAGE, PICTURE, committed_results, pack_table, page, target_table
from performance_plots import draw_gpu_page
from results_lines import ResultLines

SPREAD = {"median": 1.1, "low": 1.0, "high": 1.3}


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(committed_results())
    assert PAGE.with_name(PICTURE).is_file()


def test_the_picture_has_a_bar_for_each_shape(tmp_path: Path) -> None:
    draw_gpu_page(committed_results(), tmp_path / PICTURE)
    drawn = (tmp_path / PICTURE).read_text(encoding="utf-8")
    for name in ("bert-large, natural", "bert-large, squad2", "roberta-large, natural", "mixed pack"):
        assert f"<!-- {name} -->" in drawn


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_gpu_page(ResultLines([]), tmp_path / PICTURE)
    assert not (tmp_path / PICTURE).exists()


def line(benchmark: str, result: dict[str, Any], **setup: Any) -> dict[str, Any]:
    return {"commit": "c" * 40, "device": "a GPU", "setup": {"benchmark": benchmark, **setup}, "result": result}


def test_what_was_not_measured_is_said() -> None:
    assert all(row.endswith("| – | not measured yet |") for row in list(target_table(ResultLines([])))[2:])


def test_the_most_adapters_are_not_compared_with_themselves() -> None:
    """Where memory has room for one of the numbers, a ratio of the most to the fewest says nothing."""
    measured = {"most_of_one_adapter": 1.0, "rows_per_s": {"uniform 1000": 9.0}}
    alone, beside = (
        {"commit": "c" * 40, "setup": {"shape": "s", "histogram": "h", "prefix_len": 128, "num_adapters": numbers}}
        for numbers in ([1000], [100, 1000])
    )
    rows = list(pack_table([one | {"result": measured} for one in (alone, beside)]))[2:]
    assert ["1.00" in row for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("measured", "title", "shown"),
    [
        (
            line("residency", {"slower": SPREAD}, backbone="bert-large", workload="skewed"),
            "room, skewed",
            "≤ 1.2 × | 1.10 (1.00 to 1.30) × | met",
        ),
        (
            line("contest", {"speed": {"bfloat16 / adapterhub-bfloat16": SPREAD}}, backbone="bert-large"),
            "BatchSplit, 32 rows for 32 adapters, in bfloat16",
            "≥ 10 × | 1.10 (1.00 to 1.30) × | **missed**",
        ),
        (
            line("contest", {"speed": {"bfloat16 / peft": SPREAD}}, backbone="bert-large"),
            "PEFT, switching, 32 rows for 32 adapters, in float32",
            "≥ 30 × | 1.10 (1.00 to 1.30) × | **missed**",
        ),
        (line("http", {"of_in_process": SPREAD}, backbone="bert-base"), "HTTP", "≥ 0.85 | 1.10 (1.00 to 1.30) | met"),
        (
            line("two-servers", {"of_one": {"two": SPREAD}}, backbone="bert-large"),
            "second server",
            "≤ 1.1 × | 1.10 (1.00 to 1.30) × | met",
        ),
        (
            line("changes", {"p99_ratio": SPREAD}, backbone="bert-large"),
            "uploads and deletions",
            "≤ 1.2 × | 1.10 (1.00 to 1.30) × | met",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_section_on_a_gpu_has_its_place_in_the_table(measured: dict[str, Any], title: str, shown: str) -> None:
    rows = list(target_table(ResultLines([measured])))[2:]
    (row,) = (row for row in rows if title in row)
    assert row.endswith(f"| {shown} |")
    assert sum("not measured yet" not in row for row in rows) == 1
