"""Records of text files and the lines that they begin on. What `datasets` gives of tables is in test_streams."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data.records import read_records


def written(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path) -> list[tuple[str, Any]]:
    """Places without the path, and values."""
    records = read_records(path)
    assert all(record.place.startswith(f"{path}, ") for record in records)
    return [(record.place.removeprefix(f"{path}, "), record.values) for record in records]


def refused(source: Path | str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_records(source)
    return caught.value.detail


def test_blank_lines_count(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n\n \n{"text": "b\u2028c"}')
    assert read(path) == [("line 1", {"text": "a"}), ("line 4", {"text": "b\u2028c"})]


def test_values_stay_what_they_are(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "2020-01-01", "label": 1, "a": {"x": [1]}},
        {"text": "2021-02-03", "label": 1.5, "a": {"y": None}},
        {"text": "NA", "label": "x", "b": True},
    ]
    path = written(tmp_path, "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert [json.dumps(values) for _, values in read(path)] == [json.dumps(record) for record in records]


def test_csv_knows_text_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\nNA,null\n007,1.0\n,None\n")
    cells = [(values["text"], values["label"]) for _, values in read(path)]
    assert cells == [("NA", "null"), ("007", "1.0"), ("", "None")]


def test_a_csv_record_is_at_the_line_that_it_begins_on(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"a, ""b""\n\nc",x\n\nd,y\r\n')
    assert read(path) == [
        ("line 2", {"text": 'a, "b"\n\nc', "label": "x"}),
        ("line 6", {"text": "d", "label": "y"}),
    ]


def test_tsv(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.tsv", "text\tlabel\na, b\tx\n")) == [("line 2", {"text": "a, b", "label": "x"})]


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.tsv", "d.json"])
def test_packed_or_not_with_a_byte_order_mark_or_not(tmp_path: Path, name: str) -> None:
    text = '{"text": "é"}\n' if "json" in name else "text\né\n"
    for one in (name, f"{name}.gz"):
        for encoding in ("utf-8", "utf-8-sig"):
            assert [values for _, values in read(written(tmp_path, one, text, encoding))] == [{"text": "é"}]


def test_a_list_in_json(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '\n[{"text": "a"}, {"text":\n "b"},\n\n {"text": "c"}]\n')
    assert read(path) == [("line 2", {"text": "a"}), ("line 2", {"text": "b"}), ("line 5", {"text": "c"})]
    assert read(written(tmp_path, "b.json", "[]")) == []
    assert read(written(tmp_path, "c.json", '{"text": "a"}\n')) == [("line 1", {"text": "a"})]


@pytest.mark.parametrize(
    ("name", "text", "mentions"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3: not JSON (Expecting value, column 10)"),
        ("a.jsonl", '["a", "x"]\n', "line 1: a list where an object with named columns is needed"),
        ("a.jsonl", '{"value": 1}\n{"value": NaN}\n', "line 2: not JSON (NaN is no number that JSON has)"),
        ("a.jsonl", "[" * 99_999, "line 1: not JSON (maximum recursion depth"),
        ("a.json", '[{"text": "a"},\n {"text": }]', "line 2: the object that begins here is not JSON"),
        ("a.json", '[{"text": "a"}\n {"text": "b"}]', "line 2: a comma or ] is needed"),
        ("a.json", '[{"text": "a"}\n', "line 2: a comma or ] is needed"),
        ("a.json", '[{"text": "a"}\n]\n{}', "line 2: the list ends here, but the file goes on"),
        ("a.json", '["a"]', "line 1: a str where an object"),
        ("a.csv", 'text,label\na,x\n"b,y\nc,z\n', "line 3: the record that begins here cannot be read (unexpected end"),
        ("a.csv", "text,label\na,x\n\nb,y,z\n", "line 4: 3 cells where the header names 2"),
        ("a.csv", "text,label\na\n", "line 2: 1 cells where the header names 2"),
        ("a.csv", "text,label,text\na,x,b\n", "line 1: the header names ['text'] twice"),
        ("a.csv", "text;label\na;x\n", "line 1: the header is one cell with ';' in it: the cells of a csv are"),
        ("a.csv", "text\tlabel\na\tx\n", "line 1: the header is one cell with '\\t' in it: "),
        ("a.tsv", "text,label\na,x\n", "line 1: the header is one cell with ',' in it: "),
    ],
)
def test_a_broken_record_is_named(tmp_path: Path, name: str, text: str, mentions: str) -> None:
    path = written(tmp_path, name, text)
    assert refused(path).startswith(f"{path}, {mentions}")
    packed = written(tmp_path, f"{name}.gz", text)
    assert refused(packed).startswith(f"{packed}, {mentions}")


def test_text_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "latin.csv", "text,label\na,x\né,x\n", "latin-1")
    assert f"{path}, line 3: cannot be read ('utf-8' codec can't decode byte 0xe9" in refused(path)


def test_packed_files_that_are_none_or_break_off(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text('{"text": "a"}\n')
    assert f"{plain}, behind line 0: cannot be read (Not a gzipped file" in refused(plain)
    cut = tmp_path / "cut.jsonl.gz"
    lines = "".join(json.dumps({"text": str(number * 7919)}) + "\n" for number in range(9999))
    cut.write_bytes(gzip.compress(lines.encode())[:-2000])
    message = refused(cut)
    assert "Compressed file ended before the end-of-stream marker" in message
    assert "gzipped for .gz" in message
    line = int(message.partition("behind line ")[2].partition(":")[0])
    assert 5000 < line < 9999


def test_sources_that_are_no_data_file(tmp_path: Path) -> None:
    assert "none.jsonl does not exist: give a file (jsonl, json, csv or tsv (opt" in refused(tmp_path / "none.jsonl")
    written(tmp_path, "notes.txt", "a")
    assert "notes.txt is neither jsonl, json, csv or tsv (optionally .gz) or parquet" in refused(tmp_path / "notes.txt")
    assert "does not exist" in refused("./owner/name")
    assert read_records(written(tmp_path, "empty.jsonl", "\n")) == []


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "[a] b*"
    folder.mkdir()
    assert read(written(folder, "x?[1].jsonl", '{"text": "a"}\n')) == [("line 1", {"text": "a"})]
