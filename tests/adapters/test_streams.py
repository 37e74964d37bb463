"""Tables as `datasets` reads them: parquet, folders, hub ids; classes by name, nothing left behind."""

from __future__ import annotations

import errno
import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from prefixrack.errors import DiskFull, InvalidRequest
from prefixrack_adapters.training.data import read_examples, streams
from prefixrack_adapters.training.data.records import read_records

FEATURES = Features(
    {
        "tokens": List(Value("string")),
        "ner_tags": List(ClassLabel(names=["O", "B-per"])),
        "label": ClassLabel(names=["no", "yes"]),
        "inner": {"kind": ClassLabel(names=["x", "y"]), "text": Value("string")},
    }
)
ROW: dict[str, Any] = {"tokens": ["Ada", "sat"], "ner_tags": [1, 0], "label": 1, "inner": {"kind": 0, "text": "a"}}
NAMED = {"tokens": ["Ada", "sat"], "ner_tags": ["B-per", "O"], "label": "yes", "inner": {"kind": "x", "text": "a"}}


@pytest.fixture
def parquet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "data" / "train.parquet"
    path.parent.mkdir()
    Dataset.from_list([ROW, ROW | {"label": -1}], features=FEATURES).to_parquet(path)
    capfd.readouterr()  # the library's own bar, of writing
    return path


def refused(source: str | Path, split: str = "train") -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_records(source, split)
    return caught.value.detail


def test_classes_of_parquet_have_their_names(parquet: Path) -> None:
    first, second = read_records(parquet)
    assert (first.values, first.place) == (NAMED, f"{parquet}, record 1")
    assert (second.values["label"], second.place) == (None, f"{parquet}, record 2")


def test_a_folder_has_splits(parquet: Path) -> None:
    Dataset.from_list([ROW], features=FEATURES).to_parquet(parquet.with_name("validation.parquet"))
    folder = parquet.parent
    assert len(read_records(folder)) == 2
    (record,) = read_records(str(folder), "validation")
    assert (record.values, record.place) == (NAMED, f"{folder} (validation), record 1")
    message = refused(folder, "test")
    assert f"split 'test' of {folder} cannot be read (" in message
    assert "['train', 'validation']" in message


def test_words_such_as_na_stay_words_in_a_folder_of_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\nNA,null\nb,None\n")
    assert [record.values for record in read_records(tmp_path)] == [
        {"text": "NA", "label": "null"},
        {"text": "b", "label": "None"},
    ]


def test_a_split_without_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,x\n")
    (tmp_path / "validation.csv").write_text("text,label\n")
    with pytest.raises(InvalidRequest, match=r"\(split 'validation'\) holds no record: at least one is needed"):
        read_examples(tmp_path, "text-classification", {}, split="validation")


def test_a_full_disk_is_told_with_the_place_where_data_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    packed = tmp_path / "data.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.csv").write_text("text\na\n")
    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(streams, "_rows", full)
    for source in (packed, tmp_path / "folder"):
        with pytest.raises(DiskFull, match=f"the disk is full: data is unpacked in {tempfile.gettempdir()}; make room"):
            read_records(source)


def test_folders_and_tables_that_cannot_be_read(tmp_path: Path) -> None:
    assert f"split 'train' of {tmp_path} cannot be read" in refused(tmp_path)
    (tmp_path / "a.parquet").write_text("no table")
    assert f"{tmp_path / 'a.parquet'} cannot be read (" in refused(tmp_path / "a.parquet")


def test_nothing_is_left_and_nothing_is_said(
    parquet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    packed = tmp_path / "dev.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "a"}\n'))
    read_records(parquet)
    read_records(packed)
    read_records(parquet.parent)
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert datasets.config.HF_UPDATE_DOWNLOAD_COUNTS is True


def test_bars_are_as_they_were(parquet: Path) -> None:
    had_none = datasets.are_progress_bars_disabled()
    try:
        for switch in (datasets.disable_progress_bars, datasets.enable_progress_bars):
            switch()
            before = datasets.are_progress_bars_disabled()
            read_records(parquet)
            assert datasets.are_progress_bars_disabled() is before
    finally:
        (datasets.disable_progress_bars if had_none else datasets.enable_progress_bars)()


def test_the_hub_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refused("owner/name:config")
    assert message.startswith("owner/name:config does not exist as a file or folder, and the hub cannot be asked")
    assert "offline mode is enabled" in message


def test_a_hub_id_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the hub has no data set 'own--er/name' that you may read" in refused("own--er/name")


def test_configurations_and_splits_of_a_hub_id(parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads a folder as it reads the hub, once the hub has said that it has the data set."""
    asked: list[str] = []
    monkeypatch.setattr(streams, "_check_on_hub", lambda name, source: asked.append(name))
    (parquet.parent / "README.md").write_text(
        "---\nconfigs:\n- {config_name: small, data_files: train.parquet}\n"
        "- {config_name: none, data_files: none.csv}\n---\n"
    )
    monkeypatch.chdir(parquet.parent.parent)
    parquet.parent.rename(parquet.parent.parent / "name")
    assert len(streams.hub_rows("./name:small", "train")) == 2
    assert asked == ["./name"]
    with pytest.raises(InvalidRequest, match=r"split 'train' of \./name:big cannot be read"):
        streams.hub_rows("./name:big", "train")
