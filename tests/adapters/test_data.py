from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data import Example, GoldAnswers, labels_of, problem_of, read_examples


def jsonl(folder: Path, *records: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def one(folder: Path, task: str, record: dict[str, Any], **columns: str) -> Example:
    (example,) = read_examples(jsonl(folder, record), task, columns)
    return example


def refused(path: Path, task: str = "text-classification", **columns: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_examples(path, task, columns)
    return caught.value.detail


def test_jsonl_with_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n\n{"text": "b", "label": 1}\n')
    assert read_examples(path, "text-classification", {}) == [Example("a", "x"), Example("b", "1")]


def test_csv_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"a, ""b""\nc",x\n')
    assert read_examples(path, "text-classification", {}) == [Example('a, "b"\nc', "x")]


@pytest.mark.parametrize(
    ("name", "text"), [("d.jsonl.gz", '{"text":"é","label":"x"}\n'), ("d.csv.gz", "text,label\né,x")]
)
def test_gzipped(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert read_examples(tmp_path / name, "text-classification", {}) == [Example("é", "x")]


def test_pairs_and_the_names_of_public_data_sets(tmp_path: Path) -> None:
    pair = {"text": "a", "text_pair": "b"}
    for first, second in (("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2")):
        assert one(tmp_path, "text-classification", {first: "a", second: "b", "label": "x"}).input == pair


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    example = one(tmp_path, "text-classification", {"q": "a", "y": "x", "text": "no"}, text="q", label="y")
    assert example == Example("a", "x")


def test_several_labels(tmp_path: Path) -> None:
    assert one(tmp_path, "text-classification", {"text": "a", "labels": ["x", "y"]}).target == ("x", "y")
    assert one(tmp_path, "text-classification", {"text": "a", "labels": "x|y"}).target == ("x", "y")
    assert one(tmp_path, "text-classification", {"text": "a", "labels": []}).target == ()


def test_numbers(tmp_path: Path) -> None:
    assert one(tmp_path, "text-classification", {"text": "a", "score": 3}).target == 3.0
    assert one(tmp_path, "text-classification", {"text": "a", "value": "1.5"}).target == 1.5
    assert one(tmp_path, "text-classification", {"text": "a", "label": 2.5}, value="label").target == 2.5


def test_tags(tmp_path: Path) -> None:
    wanted = Example({"tokens": ["Ada", "sat"]}, ("B-per", "O"))
    task = "token-classification"
    assert one(tmp_path, task, {"tokens": ["Ada", "sat"], "ner_tags": ["B-per", "O"]}) == wanted
    assert one(tmp_path, task, {"words": "Ada sat", "tags": "B-per O"}) == wanted


def test_answers(tmp_path: Path) -> None:
    record = {"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [0, 4]}}
    example = one(tmp_path, "question-answering", record)
    assert example == Example({"question": "q", "context": "c"}, GoldAnswers(("a", "b"), (0, 4)))
    assert one(tmp_path, "question-answering", {"question": "q", "context": "c"}).target == GoldAnswers((), ())


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["a"]},
        {"answer_start": [0]},
        {"text": "a", "answer_start": 0},
        {"text": ["a"], "answer_start": []},
        [{"text": "a", "answer_start": 0}],
        "a",
    ],
)
def test_answers_of_another_form_are_refused(tmp_path: Path, answers: Any) -> None:
    path = jsonl(tmp_path, {"question": "q", "context": "c", "answers": answers})
    message = refused(path, "question-answering")
    assert f"{path}, record 1: answers is {answers!r}: an object with lists text and answer_start" in message


@pytest.mark.parametrize(("question", "text"), [("cause", "It rained. because"), ("effect", "It rained. so")])
def test_copa_as_superglue_has_it(tmp_path: Path, question: str, text: str) -> None:
    record = {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": question, "label": 1}
    assert one(tmp_path, "multiple-choice", record) == Example({"text": text, "choices": ["a", "b"]}, 1)


def test_any_number_of_choices(tmp_path: Path) -> None:
    record = {"text": "t", "choices": ["a", "b", "c"], "label": "2"}
    assert one(tmp_path, "multiple-choice", record) == Example({"text": "t", "choices": ["a", "b", "c"]}, 2)


@pytest.mark.parametrize(
    ("task", "record", "mentions"),
    [
        ("text-classification", {"txt": "a", "label": "x"}, "no column 'text' among ['label', 'txt']"),
        ("text-classification", {"text": "a"}, "no column 'value' among ['text']"),
        ("text-classification", {"text": "a", "value": "much"}, "could not convert string to float: 'much'"),
        ("token-classification", {"tokens": ["a"], "tags": []}, "1 tokens but 0 tags"),
        ("token-classification", {"tokens": ["a"], "tags": [3]}, "tags are [3]: names are needed"),
        ("multiple-choice", {"text": "a", "choice1": "b", "label": 0}, "no column 'choice2'"),
        ("multiple-choice", {"text": "a", "choices": ["b", "c"], "label": 2}, "label 2 names none of 2 choices"),
    ],
)
def test_a_faulty_record_is_named(tmp_path: Path, task: str, record: dict[str, Any], mentions: str) -> None:
    good = {
        "text": "a",
        "label": 0,
        "tokens": ["a"],
        "tags": ["O"],
        "choices": ["a", "b"],
        "question": "q",
        "context": "c",
    }
    path = jsonl(tmp_path, good, good, record)
    message = refused(path, task)
    assert f"{path}, record 3: " in message
    assert mentions in message
    assert "--column)" in message


def test_a_mapped_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a", "label": "x"})
    assert "no column 'premise', which --column names" in refused(path, text="premise")


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": \n')
    assert f"{path}, line 2: not JSON" in refused(path)
    path.write_text('["a", "x"]\n')
    assert f"{path}, line 1: a list where an object" in refused(path)


def test_a_format_keeps_its_own_fields(tmp_path: Path) -> None:
    record = {"sentence1": "a", "sentence2": "b", "word": "w", "idx": 3, "label": "True"}
    path = jsonl(tmp_path, record)
    (example,) = read_examples(path, "text-classification", {}, "wic")
    assert example == Example({"sentence1": "a", "sentence2": "b", "word": "w"}, "True")
    (example,) = read_examples(jsonl(tmp_path, record | {"idx": "x"}), "text-classification", {"word": "idx"}, "wic")
    assert example.input["word"] == "x"
    srl = {"tokens": ["a", "b"], "tags": ["O", "B-V"], "predicate_index": 1}
    (example,) = read_examples(jsonl(tmp_path, srl), "token-classification", {}, "srl")
    assert example == Example({"tokens": ["a", "b"], "predicate_index": 1}, ("O", "B-V"))
    copa = {"premise": "a", "question": "cause", "choice1": "b", "choice2": "c", "label": 1}
    (example,) = read_examples(jsonl(tmp_path, copa), "multiple-choice", {}, "copa")
    assert example.input == {"text": "a because", "choices": ["b", "c"]}


def test_formats_and_tasks_without_a_target_are_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"sentence1": "a", "sentence2": "b", "label": "True"})
    with pytest.raises(InvalidRequest, match="no column 'word' of input format 'wic'"):
        read_examples(path, "text-classification", {}, "wic")
    with pytest.raises(InvalidRequest, match="'multirc' has no label of its own"):
        read_examples(path, "text-classification", {}, "multirc")
    with pytest.raises(InvalidRequest, match="'text-embedding' can be imported and served, but neither trained"):
        read_examples(path, "text-embedding", {})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.jsonl")
    assert "neither jsonl nor csv" in refused(tmp_path / "data.parquet")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "holds no record" in refused(tmp_path / "empty.jsonl")
    (tmp_path / "latin.csv").write_bytes("text,label\né,x\n".encode("latin-1"))
    assert "cannot be read" in refused(tmp_path / "latin.csv")
    (tmp_path / "plain.jsonl.gz").write_text('{"text": "a", "label": "x"}\n')
    assert "gzipped for .gz" in refused(tmp_path / "plain.jsonl.gz")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a", "label": "x"}\n' * 99)[:-20])
    assert "cannot be read" in refused(tmp_path / "cut.jsonl.gz")


def test_labels_are_sorted_and_outside_comes_first() -> None:
    tags = [Example({}, ("I-a", "O", "B-b")), Example({}, ("B-a",))]
    assert labels_of("token-classification", tags) == ["O", "B-a", "I-a", "B-b"]
    assert labels_of("text-classification", [Example("", "y"), Example("", "x"), Example("", "y")]) == ["x", "y"]
    assert labels_of("text-classification", [Example("", 1.0)]) == []
    assert labels_of("question-answering", [Example({}, GoldAnswers((), ()))]) == []


def test_the_problem_is_told_by_the_target() -> None:
    for target, problem in (("x", "single_label"), (("x",), "multi_label"), (1.0, "regression")):
        assert problem_of("text-classification", [Example("", target)]) == problem
    assert problem_of("token-classification", [Example({}, ("O",))]) == "single_label"
