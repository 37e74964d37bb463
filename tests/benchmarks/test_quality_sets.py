"""What the comparison of methods reads of a data folder, and what its recipes say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.training.settings import TrainSettings
from quality_sets import METHODS, SETS, QualitySet, labels_of_set, recipe


def described(folder: Path, name: str, labels: Any) -> Path:
    (folder / name).mkdir()
    (folder / name / "dataset.json").write_text(json.dumps({"name": name, "labels": labels}))
    return folder


@pytest.mark.parametrize(
    ("name", "labels", "wanted"),
    [
        pytest.param("wnut17", ["O", "B-person"], ["O", "B-person"], id="one task"),
        pytest.param("boolq", [False, True], ["False", "True"], id="no words"),
        pytest.param("copa", [0, 1], None, id="numbers of choices"),
        pytest.param("squad1", None, None, id="none"),
        pytest.param("snips", {"intent": ["PlayMusic"], "tags": ["O", "B-album"]}, ["O", "B-album"], id="tags of two"),
        pytest.param("trec", {"label": ["NUM"], "fine_label": ["NUM:date"]}, ["NUM"], id="labels of two"),
    ],
)
def test_labels_of_a_data_set(tmp_path: Path, name: str, labels: Any, wanted: list[str] | None) -> None:
    assert labels_of_set(described(tmp_path, name, labels), name) == wanted


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_is_a_training(name: str, method: str) -> None:
    for num_train in (93, 475, 2000):
        settings = settings_of(SETS[name], method, num_train)
        assert settings.method == method


def settings_of(one: QualitySet, method: str, num_train: int) -> TrainSettings:
    return TrainSettings(
        name=one.name,
        task=one.task,
        backbone=Path("backbone"),
        train_file="train.jsonl",
        dev_file="dev.jsonl",
        output=Path("out"),
        input_format=one.input_format,
        method=method,
        **recipe(method, one, num_train),
    )
