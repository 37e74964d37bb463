"""The page of the benchmarks: which lines it takes, what it calls met, and that the committed one is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from performance_page import PAGES, RESULTS, ROOT, changes_section, page, target_table, write_page
from results_lines import Measured, ResultLines
from targets import Target, targets


def line(benchmark: str, result: dict[str, Any], **setup: Any) -> dict[str, Any]:
    return {"commit": "c" * 40, "device": "a machine", "setup": {"benchmark": benchmark, **setup}, "result": result}


def spread(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": median, "low": low, "high": high}


def row_of(results: ResultLines, title: str) -> str:
    (row,) = (row for row in target_table(results) if title in row)
    return row


def test_a_target_is_met_or_missed_by_the_median_of_all_runs() -> None:
    runs = [line("residency", {"slower": spread(*values)}, workload="uniform") for values in SLOWER]
    results = ResultLines(runs)
    assert results.of("residency").measured("slower") == Measured(1.1, 0.9, 1.5, 3)
    assert row_of(results, "room, uniform").endswith("| ≤ 1.2 × | 1.10 (0.90 to 1.50) × | met | 3 |")
    assert row_of(ResultLines(runs[2:]), "room, uniform").endswith("| 1.40 (1.30 to 1.50) × | **missed** | 1 |")


SLOWER = ((1.0, 0.9, 1.1), (1.1, 1.0, 1.2), (1.4, 1.3, 1.5))


def test_what_was_not_measured_is_said() -> None:
    assert all("not measured" in row for row in list(target_table(ResultLines([])))[2:])


def test_lines_are_found_by_their_setup() -> None:
    def engine(low: float, median: float, high: float, **setup: Any) -> dict[str, Any]:
        return line("engine", {"of_gemm_limit": spread(median, low, high)}, backbone="minilm", **setup)

    results = ResultLines(
        [
            engine(0.8, 0.9, 1.0, dtype="float32", num_adapters=256),
            engine(0.4, 0.5, 0.6, dtype="bfloat16", num_adapters=256),
            engine(0.2, 0.4, 0.5, dtype="float32", rows=1, row_len=32),
        ]
    )
    assert "0.90 (0.80 to 1.00) | met" in row_of(results, "GEMM limit, minilm, float32")
    assert "0.50 (0.40 to 0.60) | **missed**" in row_of(results, "GEMM limit, minilm, bfloat16")
    # a share of the floor turned into times the floor
    assert "2.50 (2.00 to 5.00) × | **missed**" in row_of(results, "its GEMM floor, float32")


def test_floors_and_ceilings() -> None:
    def target(is_floor: bool) -> Target:
        return Target("", 1.0, is_floor, lambda _: None)

    below = Measured(0.9, 0.9, 0.9, 1)
    assert not target(is_floor=True).is_met(below)
    assert target(is_floor=False).is_met(below)


def test_every_target_has_a_title_of_its_own() -> None:
    titles = [target.title for target in targets()]
    assert len(titles) == len(set(titles))


def test_each_way_to_serve_has_its_own_lines_of_changes() -> None:
    def changes(p99_ratio: float, dtype: str, **setup: Any) -> dict[str, Any]:
        result = {"p99_ratio": p99_ratio, "p99_ms": {"quiet": 20.0}, "rows_per_s": 300.0, "upload": {"p50_ms": 30.0}}
        return line("changes", result, dtype=dtype, changes_per_s=50.0, **setup)

    halves = [changes(3.0, "float32", load=0.5), changes(5.0, "float32", load=0.5, http_workers=None)]
    quarter = changes(1.1, "bfloat16", load=0.25, http_workers=1)
    results = ResultLines([*halves, quarter])
    one, other = " ".join(changes_section(results)).split("Beside 50 uploads")[1:]
    assert "4.00 (3.00 to 5.00) times" in one
    assert "float32 at 50% load" in one
    assert "1.10 (1.10 to 1.10) times" in other
    assert "bfloat16 (front ends: 1) at 25% load" in other
    assert "4.00 (3.00 to 5.00) × | **missed** | 2" in row_of(results, "float32, half load")
    assert "1.10 (1.10 to 1.10) × | met | 1" in row_of(results, "a front end, quarter load")


def test_a_page_of_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    write_page([tmp_path / "none.jsonl"], tmp_path)
    assert (tmp_path / "performance.md").read_text(encoding="utf-8").startswith("# How fast is it")


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_that_of_the_committed_results(name: str) -> None:
    results = ResultLines.read([RESULTS / PAGES[name].results])
    plots = {f"{name}-{kind}.svg": "" for kind in ("peers", "adapters", "latency")}
    written = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    without_pictures = [row for row in written.splitlines() if not row.startswith("![")]
    assert without_pictures == [row for row in page(results, plots, name).splitlines() if not row.startswith("![")]
