"""The confusion matrix and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.confusion import Confusion, check_picture, confusion_of, draw_confusion


def test_rows_are_gold_and_columns_predicted() -> None:
    confusion = confusion_of(["a", "a", "b"], ["a", "b", ""], ["b", "a", ""])
    assert confusion.as_json() == {"labels": ["b", "a", "(failed)"], "counts": [[0, 0, 1], [1, 1, 0], [0, 0, 0]]}


def test_the_largest_classes_keep_their_order() -> None:
    counts = np.diag([1, 5, 0, 3])
    assert Confusion(("a", "b", "c", "d"), counts).largest(2).as_json() == {
        "labels": ["b", "d"],
        "counts": [[5, 0], [0, 3]],
    }


@pytest.mark.parametrize(("name", "start"), [("picture.svg", b"<?xml"), ("picture.PNG", b"\x89PNG")])
def test_the_same_matrix_gives_the_same_picture(tmp_path: Path, name: str, start: bytes) -> None:
    confusion = confusion_of(["a<b", "c"], ["c", "c"], ["a<b", "c"])
    contents = []
    for _ in range(2):
        draw_confusion(confusion, tmp_path / name, "one on two")
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0].startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_of_many_classes_says_what_it_leaves_out(tmp_path: Path) -> None:
    names = tuple(f"label {index:02}" for index in range(50))
    draw_confusion(Confusion(names, np.diag(np.arange(50))), tmp_path / "picture.svg", "many")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "(10 smaller classes left out)" in drawn
    assert "label 49" in drawn
    assert "label 09" not in drawn


def test_places_that_cannot_be_drawn_to(tmp_path: Path) -> None:
    for path, mentions in ((tmp_path / "a.pdf", "no .svg or .png"), (tmp_path / "none" / "a.svg", "is no folder")):
        with pytest.raises(InvalidRequest, match=mentions):
            check_picture(path)
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(InvalidRequest, match="cannot be written"):
        draw_confusion(confusion_of(["a"], ["a"], ["a"]), tmp_path / "a.svg", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]
