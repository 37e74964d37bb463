"""Which cells of the comparison of methods are done, when a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quality import Bench, Cell, Sizes
from quality_sets import SETS, recipe

CELL = Cell("snli", "p-tuning-v2", 13)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One whose results hold a cell, measured with `prefix_len` 8 asked for."""
    bench = Bench(tmp_path, tmp_path, "cpu", Sizes(2000, 500), {}, tmp_path / "results.jsonl")
    setup = {
        **{"dataset": CELL.name, "method": CELL.method, "seed": CELL.seed},
        **{"max_train": 2000, "max_dev": 500, "num_train": 2000, "changes": {"prefix_len": 8}},
    }
    settings = {"reparameterization": "none"} | recipe(CELL.method, SETS[CELL.name], 2000) | {"prefix_len": 8}
    bench.results.write_text(json.dumps({"setup": setup | {"settings": settings}}) + "\n")
    return bench


@pytest.mark.parametrize(
    ("changes", "sizes", "is_finished"),
    [
        pytest.param({"prefix_len": 8}, Sizes(2000, 500), True, id="the same"),
        pytest.param({"prefix_len": 8, "epochs": 15}, Sizes(2000, 500), True, id="a change to what the recipe has"),
        pytest.param({}, Sizes(2000, 500), False, id="the recipe"),
        pytest.param({"prefix_len": 16}, Sizes(2000, 500), False, id="another change"),
        pytest.param({"prefix_len": 8}, Sizes(320, 200), False, id="other sizes"),
    ],
)
def test_a_cell_is_done_when_a_line_has_its_settings(
    bench: Bench, changes: Mapping[str, Any], sizes: Sizes, is_finished: bool
) -> None:
    assert (CELL in replace(bench, changes=changes, sizes=sizes).finished()) == is_finished


def test_a_cell_is_run_again_when_its_recipe_has_changed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = replace(bench, changes={"prefix_len": 8})
    assert asked_for.finished() == {CELL}
    another = recipe(CELL.method, SETS[CELL.name], 2000) | {"epochs": 99}
    monkeypatch.setattr("quality_lines.recipe", lambda *_: another)
    assert asked_for.finished() == set()
