"""Pictures of training: the same numbers give the same bytes, and say what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.training.curves import MOST_LINES, Point, draw_curves, draw_study

LOG: list[dict[str, float]] = [
    {"step": 10, "epoch": 1.0, "loss": 0.9},
    {"step": 10, "epoch": 1.0, "eval_main": 0.4, "eval_accuracy": 0.4},
    {"step": 20, "epoch": 2.0, "loss": 0.3},
    {"step": 20, "epoch": 2.0, "eval_main": 0.75, "eval_accuracy": 0.75},
]


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text())


def grid(**settings: list[Any]) -> list[Point]:
    points = [Point({}, 0.5, 0.1)]
    for name, values in settings.items():
        points = [
            Point({**point.settings, name: value}, point.mean + 0.01 * index, 0.1)
            for point in points
            for index, value in enumerate(values)
        ]
    return points


def test_curves_show_loss_score_and_the_best_epoch(tmp_path: Path) -> None:
    draw_curves(LOG, 2, tmp_path / "curves.svg", "intent", "accuracy")
    shown = texts(tmp_path / "curves.svg")
    assert {"intent", "training loss", "dev: accuracy", "step", "epoch", "epoch 2: 0.7500"} <= set(shown)


def test_equal_curves_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_curves(LOG, 2, tmp_path / name, "intent", "accuracy")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert b"dc:date" not in first
    draw_curves(LOG, 1, tmp_path / "b.svg", "intent", "accuracy")
    assert (tmp_path / "b.svg").read_bytes() != first


def test_curves_without_a_loss_have_the_scores_alone(tmp_path: Path) -> None:
    draw_curves([LOG[1]], 1, tmp_path / "curves.svg", "intent", "accuracy")
    assert "training loss" not in texts(tmp_path / "curves.svg")
    assert "epoch 1: 0.4000" in texts(tmp_path / "curves.svg")


def test_of_several_data_sets_the_score_is_a_mean(tmp_path: Path) -> None:
    log = [{"step": 1, "eval_main": 0.5, "eval_snli/accuracy": 0.6, "eval_wsc/accuracy": 0.4}]
    draw_curves(log, 1, tmp_path / "curves.svg", "both", "accuracy")
    assert "dev: mean score of all sets" in texts(tmp_path / "curves.svg")


def test_one_epoch_of_few_steps_is_a_picture_too(tmp_path: Path) -> None:
    """A line of one point would not be seen; the axis begins at no step."""
    path = tmp_path / "one.svg"
    draw_curves([{"step": 3, "loss": 0.6}, {"step": 3, "eval_main": 0.5}], 1, path, "one", "accuracy")
    assert {"0", "1", "2", "3"} <= set(texts(path))
    marks = re.findall(r'<g clip-path="[^"]+">\s*<use ', path.read_text())
    assert len(marks) == 3, "the loss, the score and its star"


def test_many_epochs_are_not_all_numbered(tmp_path: Path) -> None:
    log = [{"step": 7 * epoch, "eval_main": epoch / 50} for epoch in range(1, 46)]
    draw_curves(log, 45, tmp_path / "curves.svg", "long", "f1")
    assert {"3", "6", "45"} <= set(texts(tmp_path / "curves.svg"))
    assert "44" not in texts(tmp_path / "curves.svg")


def test_a_study_has_a_panel_for_each_setting_and_a_line_for_each_other_value(tmp_path: Path) -> None:
    points = grid(learning_rate=[1e-3, 1e-2], prefix_len=[8, 32])
    draw_study(points, points[-1].settings, tmp_path / "study.svg", "intent", "accuracy")
    shown = texts(tmp_path / "study.svg")
    assert {"learning_rate", "prefix_len", "dev: accuracy", "0.001", "0.01", "8", "32"} <= set(shown)
    assert {"prefix_len=8", "prefix_len=32", "learning_rate=0.001", "learning_rate=0.01"} <= set(shown)
    draw_study(points, points[-1].settings, tmp_path / "again.svg", "intent", "accuracy")
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "study.svg").read_bytes()


def test_names_are_an_axis_too_and_one_setting_needs_no_legend(tmp_path: Path) -> None:
    points = [Point({"head": "pooler"}, 0.5, None), Point({"head": "linear"}, 0.4, None)]
    draw_study(points, {"head": "pooler"}, tmp_path / "study.svg", "intent", "accuracy")
    shown = texts(tmp_path / "study.svg")
    assert {"pooler", "linear", "head"} <= set(shown)
    assert not [text for text in shown if "=" in text]


def test_of_many_lines_the_highest_are_drawn(tmp_path: Path) -> None:
    points = grid(epochs=[1, 2], prefix_len=list(range(1, MOST_LINES + 4)))
    draw_study(points, points[-1].settings, tmp_path / "study.svg", "intent", "accuracy")
    shown = texts(tmp_path / "study.svg")
    assert "(3 lines with lower scores left out)" in shown
    assert "prefix_len=3" not in shown
    assert "prefix_len=4" in shown


def test_seeds_alone_have_no_axis(tmp_path: Path) -> None:
    draw_study([Point({}, 0.5, 0.1)], {}, tmp_path / "study.svg", "intent", "accuracy")
    assert not (tmp_path / "study.svg").exists()


@pytest.mark.parametrize("values", [[1e-5, 1e-2], [0.0, 0.5], [8, 16]])
def test_all_values_are_marked_whatever_the_scale(tmp_path: Path, values: list[float]) -> None:
    points = grid(warmup=values)
    draw_study(points, points[0].settings, tmp_path / "study.svg", "intent", "accuracy")
    assert {str(value) for value in values} <= set(texts(tmp_path / "study.svg"))
