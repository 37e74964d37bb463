"""The page of the GPU: the committed one is that of the committed lines."""

from __future__ import annotations

from pathlib import Path

from gpu_page import PAGE, PICTURE, RESULTS, page
from performance_plots import draw_gpu_page
from results_lines import ResultLines


def test_the_committed_page_is_that_of_the_committed_results() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(ResultLines.read([RESULTS]))
    assert PAGE.with_name(PICTURE).is_file()


def test_the_picture_has_a_bar_for_each_shape(tmp_path: Path) -> None:
    draw_gpu_page(ResultLines.read([RESULTS]), tmp_path / PICTURE)
    drawn = (tmp_path / PICTURE).read_text(encoding="utf-8")
    for name in ("bert-large, natural", "bert-large, squad2", "roberta-large, natural", "mixed pack"):
        assert f"<!-- {name} -->" in drawn


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    draw_gpu_page(ResultLines([]), tmp_path / PICTURE)
    assert not (tmp_path / PICTURE).exists()
