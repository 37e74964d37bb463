"""MultiRC and ReCoRD in their own nested form, and in the flat forms that copies of them have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data import CandidateLabels, Example, labels_of, problem_of, read_examples

TASK = "text-classification"
FIELDS = {"passage": "Ann and Bo left.", "question": "Who left?", "answers": ["Ann", "Cy"]}
JUDGED = Example(FIELDS, CandidateLabels(("Ann", "Cy"), ("True", "False")))
NEWS = "Oslo voted.\n@highlight\nBergen waits"
QUERY = "@placeholder is waiting."
ENTITIES = ["Oslo", "Bergen"]
RANKED = Example(
    {"passage": NEWS, "query": QUERY, "entities": ENTITIES}, CandidateLabels(("Oslo", "Bergen"), ("False", "True"))
)


def read(folder: Path, input_format: str, *records: Any, **columns: str) -> list[Example]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_examples(path, TASK, columns, input_format)


def multirc(answers: Any, **others: Any) -> dict[str, Any]:
    return {"passage": FIELDS["passage"], "question": FIELDS["question"], "answers": answers, **others}


@pytest.mark.parametrize(
    "record",
    [
        multirc([{"text": "Ann", "label": 1}, {"text": "Cy", "label": 0}]),
        multirc([{"text": "Ann", "label": True}, {"text": "Cy", "label": "false"}]),
        multirc(["Ann", "Cy"], labels=[1, 0]),
        {
            "idx": 3,
            "passage": {
                "text": FIELDS["passage"],
                "questions": [
                    {
                        "question": FIELDS["question"],
                        "answers": [{"text": "Ann", "idx": 0, "label": 1}, {"text": "Cy", "idx": 1, "label": 0}],
                    }
                ],
            },
        },
    ],
)
def test_multirc(tmp_path: Path, record: dict[str, Any]) -> None:
    examples = read(tmp_path, "multirc", record)
    assert examples == [JUDGED]
    assert examples[0].place == f"{tmp_path / 'data.jsonl'}, line 1"
    assert labels_of(TASK, examples) == ["False", "True"]
    assert problem_of(TASK, examples) == "single_label"


def test_multirc_with_a_record_for_each_answer(tmp_path: Path) -> None:
    first = {"paragraph": FIELDS["passage"], "question": FIELDS["question"], "answer": "Ann", "label": 1}
    other = {"paragraph": "Bo left.", "question": FIELDS["question"], "answer": "Ann", "label": 0}
    examples = read(tmp_path, "multirc", first, first | {"answer": "Cy", "label": 0}, other)
    assert examples[0] == JUDGED
    assert examples[1].target == CandidateLabels(("Ann",), ("False",))
    assert [example.place.rpartition(", ")[2] for example in examples] == ["line 1", "line 3"]


def test_record(tmp_path: Path) -> None:
    flat = {"passage": NEWS, "query": QUERY, "entities": ENTITIES, "answers": ["Bergen"], "idx": 1}
    assert read(tmp_path, "record", flat) == [RANKED]
    assert read(tmp_path, "record", {**flat, "q": QUERY, "query": "no"}, query="q") == [RANKED]


def test_record_as_superglue_has_it(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 3}, {"start": 23, "end": 28}, {"start": 0, "end": 3}]
    answer = {"start": 23, "end": 28, "text": "Bergen"}
    nested = {
        "passage": {"text": NEWS, "entities": spans},
        "qas": [{"query": QUERY, "answers": [answer]}, {"query": "Go, @placeholder!", "answers": [answer, answer]}],
    }
    examples = read(tmp_path, "record", nested)
    assert examples[0] == RANKED
    assert examples[1].input["query"] == "Go, @placeholder!"
    assert len(examples) == 2


def record(**others: Any) -> dict[str, Any]:
    return {"passage": NEWS, "query": QUERY, "entities": ENTITIES, "answers": ["Bergen"], **others}


@pytest.mark.parametrize(
    ("input_format", "bad", "mentions"),
    [
        ("multirc", multirc([]), "answers is []: a list of objects is needed, one at least"),
        ("multirc", multirc(["Ann", "Cy"], labels=[1]), "labels is [1]: a label for each of 2 answers is needed"),
        ("multirc", multirc(["Ann", "Cy"]), "no column 'labels' among ['answers', 'passage', 'question']"),
        ("multirc", multirc([{"text": "Ann", "label": 2}]), "the label of an answer is 2: true or false (or 1 or 0)"),
        ("multirc", multirc([{"text": "Ann"}]), "the label of an answer is None"),
        ("multirc", multirc([{"label": 1}]), "text of an answer is None: a string is needed"),
        ("multirc", multirc([{"text": "a", "label": 0}, {"text": "a", "label": 1}]), "'a' is both true and false"),
        ("multirc", {"passage": {"text": "a"}}, "passage.questions is None: a list of objects is needed"),
        ("multirc", {"passage": "a", "question": "b", "answer": "c"}, "no column 'label'"),
        ("record", record(answers=["Rome"]), "none of the answers ['Rome'] is among the entities ['Oslo', 'Bergen']"),
        ("record", record(answers=[]), "answers is []: a list of strings is needed, one at least"),
        ("record", record(entities=[]), "entities is []: a list of strings is needed, one at least"),
        ("record", record(query="Who is waiting?"), "query has no @placeholder"),
        ("record", {"passage": {"text": "a", "entities": [{"start": 0, "end": 1}]}, "qas": []}, "does not lie in a"),
    ],
)
def test_a_faulty_record_is_named(tmp_path: Path, input_format: str, bad: dict[str, Any], mentions: str) -> None:
    good = multirc(["Ann"], labels=[1]) if input_format == "multirc" else record()
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, input_format, good, bad)
    assert caught.value.detail.startswith(f"{tmp_path / 'data.jsonl'}, line 2: ")
    assert mentions in caught.value.detail
