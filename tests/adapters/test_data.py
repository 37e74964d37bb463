"""Records of every task → examples, and what is wrong with them: always with file, line and next step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data import (
    CandidateLabels,
    Example,
    GoldAnswers,
    Similarity,
    Target,
    check_known_labels,
    labels_of,
    problem_of,
    read_examples,
)

TEXT, TAGS, ANSWERS = "text-classification", "token-classification", "question-answering"
CHOICE, EMBEDDING = "multiple-choice", "text-embedding"


def jsonl(folder: Path, *records: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return path


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text)
    return path


def one(folder: Path, task: str, record: dict[str, Any], input_format: str = "plain", **columns: str) -> Example:
    (example,) = read_examples(jsonl(folder, record), task, columns, input_format)
    return example


def refused(path: Path, task: str = TEXT, input_format: str = "plain", **columns: str) -> str:
    """What is said, without the path that it begins with."""
    with pytest.raises(InvalidRequest) as caught:
        read_examples(path, task, columns, input_format)
    assert caught.value.detail.startswith(str(path))
    return caught.value.detail.removeprefix(f"{path}, ")


def test_an_example_knows_its_place(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n\n{"text": "b", "label": 1}\n')
    examples = read_examples(path, TEXT, {})
    assert examples == [Example("a", "x"), Example("b", "1")]
    assert [example.place for example in examples] == [f"{path}, line 1", f"{path}, line 3"]


def test_pairs_and_the_names_of_public_data_sets(tmp_path: Path) -> None:
    pair = {"text": "a", "text_pair": "b"}
    names = ("text text_pair", "premise hypothesis", "sentence1 sentence2", "question passage", "question sentence")
    for first, second in (both.split() for both in (*names, "question1 question2")):
        assert one(tmp_path, TEXT, {first: "a", second: "b", "label": "x"}).input == pair
    for name in ("text", "sentence", "question"):
        assert one(tmp_path, TEXT, {name: "a", "label": "x"}).input == "a"


def test_a_pair_may_lack_its_second_text(tmp_path: Path) -> None:
    assert one(tmp_path, TEXT, {"text": "a", "text_pair": None, "label": "x"}).input == "a"
    path = csv_file(tmp_path, "text,text_pair,label\na,,x\nb,c,y\n")
    assert [example.input for example in read_examples(path, TEXT, {})] == ["a", {"text": "b", "text_pair": "c"}]


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    record = {"q": "a", "y": "x", "text": "no", "label": "no"}
    assert one(tmp_path, TEXT, record, text="q", label="y") == Example("a", "x")
    pair = {"premise": "a", "h": "b", "label": "x"}
    assert one(tmp_path, TEXT, pair, text_pair="h").input == {"text": "a", "text_pair": "b"}
    copa = {"p": "It rained.", "asks": "effect", "choice1": "a", "choice2": "b", "label": 0}
    assert one(tmp_path, CHOICE, copa, text="p", question="asks").input["text"] == "It rained. so"
    copa["premise"] = copa.pop("p")
    assert one(tmp_path, CHOICE, copa, question="asks").input["text"] == "It rained. so"


def test_a_class_by_name_number_or_truth(tmp_path: Path) -> None:
    for label, name in (("x", "x"), (3, "3"), ("3", "3"), (True, "True"), ("NA", "NA")):
        assert one(tmp_path, TEXT, {"text": "a", "label": label}).target == name


def test_several_labels(tmp_path: Path) -> None:
    for labels, target in (
        (["x", "y"], ("x", "y")),
        ("x|y", ("x", "y")),
        ("x", ("x",)),
        ([], ()),
        ([1, 2], ("1", "2")),
    ):
        assert one(tmp_path, TEXT, {"text": "a", "labels": labels}).target == target
    path = csv_file(tmp_path, "text,labels\na,\n")
    assert read_examples(path, TEXT, {}) == [Example("a", ())]
    assert one(tmp_path, TEXT, {"text": "a", "labels": ["x"], "main": "x"}, label="main").target == "x"


def test_numbers(tmp_path: Path) -> None:
    assert one(tmp_path, TEXT, {"text": "a", "score": 3}).target == 3.0
    assert one(tmp_path, TEXT, {"text": "a", "value": "1.5"}).target == 1.5
    assert one(tmp_path, TEXT, {"text": "a", "label": 2.5}, value="label").target == 2.5


def test_tags(tmp_path: Path) -> None:
    wanted = Example({"tokens": ["Ada", "sat"]}, ("B-per", "O"))
    assert one(tmp_path, TAGS, {"tokens": ["Ada", "sat"], "ner_tags": ["B-per", "O"]}) == wanted
    assert one(tmp_path, TAGS, {"words": "Ada sat", "tags": "B-per O"}) == wanted


def test_tags_of_a_table_have_their_names(tmp_path: Path) -> None:
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-per"]))})
    path = tmp_path / "data.parquet"
    Dataset.from_list([{"tokens": ["Ada", "sat"], "ner_tags": [1, 0]}], features=features).to_parquet(path)
    assert read_examples(path, TAGS, {}) == [Example({"tokens": ["Ada", "sat"]}, ("B-per", "O"))]


TWO = {"text": ["a", "bc"], "answer_start": [0, 2]}


@pytest.mark.parametrize(
    "answers",
    [
        {"answers": TWO},
        {"answers": [{"text": "a", "answer_start": 0}, {"text": "bc", "answer_start": 2}]},
        {"answers.text": TWO["text"], "answers.answer_start": TWO["answer_start"]},
        {"answers": json.dumps(TWO)},
    ],
)
def test_answers_in_every_form(tmp_path: Path, answers: dict[str, Any]) -> None:
    record = {"question": "q", "context": "a bc", "is_impossible": False, **answers}
    wanted = Example({"question": "q", "context": "a bc"}, GoldAnswers(("a", "bc"), (0, 2)))
    assert one(tmp_path, ANSWERS, record) == wanted
    assert one(tmp_path, ANSWERS, record, "squad") == wanted
    table = tmp_path / "data.parquet"
    Dataset.from_list([record]).to_parquet(table)
    assert read_examples(table, ANSWERS, {}) == [wanted]


def test_answers_in_csv(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "question,context,answer,answer_start\nq,a bc,bc,2\n")
    assert [example.target for example in read_examples(path, ANSWERS, {})] == [GoldAnswers(("bc",), (2,))]


def test_questions_without_an_answer(tmp_path: Path) -> None:
    record = {"question": "q", "context": "c"}
    forms: list[dict[str, Any]] = [{"answers": {"text": [], "answer_start": []}}, {"answers": []}]
    for answers in (*forms, {"is_impossible": True}):
        assert one(tmp_path, ANSWERS, {**record, **answers}).target == GoldAnswers((), ())


@pytest.mark.parametrize(
    ("answers", "mentions"),
    [
        ({"text": ["a"]}, "answers is {'text': ['a']}: lists text (strings) and answer_start"),
        ({"answer_start": [0]}, "lists text (strings) and answer_start"),
        ({"text": "a", "answer_start": 0}, "lists text (strings) and answer_start"),
        ({"text": ["a"], "answer_start": []}, "of equal length are needed"),
        ({"text": [1], "answer_start": [0]}, "lists text (strings)"),
        ({"text": ["a"], "answer_start": ["0"]}, "answer_start of 'a' is '0': a whole number is needed"),
        ({"text": [""], "answer_start": [0]}, "the answer at 0 is '': one visible character"),
        ("a", "answers is 'a': a list or an object is needed, in csv as JSON"),
        (7, "answers is 7: an object with lists"),
        (None, "column 'answers' is null here"),
        (
            {"text": ["sat"], "answer_start": [3]},
            "'sat' is not at its answer_start 3, where ' sa' stands: it occurs at 4",
        ),
        ({"text": ["sat"], "answer_start": [-1]}, "its answer_start -1, where nothing stands: it occurs at 4"),
        (
            {"text": ["Ada", "Bo"], "answer_start": [0, 99]},
            "'Bo' is not at its answer_start 99, where nothing stands: it",
        ),
        ({"text": ["Bo"], "answer_start": [0]}, "where 'Ad' stands: it occurs nowhere in the context"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answers: Any, mentions: str) -> None:
    good = {"question": "q", "context": "Ada sat", "answers": {"text": ["sat"], "answer_start": [4]}}
    message = refused(jsonl(tmp_path, good, good | {"answers": answers}), ANSWERS)
    assert message.startswith("line 2: ")
    assert mentions in message


def test_an_answer_to_what_has_none_is_refused(tmp_path: Path) -> None:
    record = {"question": "q", "context": "a", "answers": {"text": ["a"], "answer_start": [0]}, "is_impossible": True}
    assert "is_impossible is true, but answers has ['a']" in refused(jsonl(tmp_path, record), ANSWERS)
    del record["answers"]
    del record["is_impossible"]
    assert "no column 'answers' among ['context', 'question']" in refused(jsonl(tmp_path, record), ANSWERS)


@pytest.mark.parametrize(("question", "text"), [("cause", "It rained. because"), ("effect", "It rained. so")])
@pytest.mark.parametrize("input_format", ["plain", "copa"])
def test_copa_as_superglue_has_it(tmp_path: Path, question: str, text: str, input_format: str) -> None:
    record = {"premise": "It rained.", "choice1": "a", "choice2": "b", "question": question, "label": 1}
    assert one(tmp_path, CHOICE, record, input_format) == Example({"text": text, "choices": ["a", "b"]}, 1)


@pytest.mark.parametrize(
    "record",
    [
        {"text": "t", "choices": ["a b", "a c", "a d"], "label": "2"},
        {"text": "t", "choices": '["a b", "a c", "a d"]', "label": "2"},
        {"question": "t", "choice1": "a b", "choice2": "a c", "choice3": "a d", "choice4": None, "label": 2},
        {"text": "t", "choice0": "a b", "choice1": "a c", "choice2": "a d", "label": "choice2"},
        {"ctx": "t", "endings": ["a b", "a c", "a d"], "label": 2},
        {"sent1": "t", "sent2": "a", "ending0": "b", "ending1": "c", "ending2": "d", "label": 2},
    ],
)
def test_any_number_of_choices(tmp_path: Path, record: dict[str, Any]) -> None:
    wanted = Example({"text": "t", "choices": ["a b", "a c", "a d"]}, 2)
    assert one(tmp_path, CHOICE, record) == wanted


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("text", "text_pair"),
        ("text", "positive"),
        ("anchor", "positive"),
        ("query", "answer"),
        ("sentence1", "sentence2"),
    ],
)
def test_pairs_that_belong_together(tmp_path: Path, first: str, second: str) -> None:
    record = {first: "a", second: "b", "negative": "c"}
    assert one(tmp_path, EMBEDDING, record) == Example(("a", "b"), Similarity(None))
    assert one(tmp_path, EMBEDDING, record | {"score": "3.5"}) == Example(("a", "b"), Similarity(3.5))


def test_texts_to_embed_may_have_titles(tmp_path: Path) -> None:
    record = {"text": {"text": "a", "title": None}, "positive": {"title": "t", "text": "b"}}
    assert one(tmp_path, EMBEDDING, record).input == ("a", {"title": "t", "text": "b"})


def test_labels_are_no_similarity(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"premise": "a", "hypothesis": "b", "label": "contradiction"})
    message = refused(path, EMBEDDING)
    assert "label is 'contradiction', but embeddings learn from scores" in message
    assert "--column positive=hypothesis" in message
    assert read_examples(path, EMBEDDING, {"positive": "hypothesis"}) == [Example(("a", "b"), Similarity(None))]
    scored = jsonl(tmp_path, {"premise": "a", "hypothesis": "b", "label": 1})
    assert read_examples(scored, EMBEDDING, {"value": "label"}) == [Example(("a", "b"), Similarity(1.0))]


GOOD: Mapping[str, Any] = {
    "text": "a",
    "label": 0,
    "tokens": ["a"],
    "tags": ["O"],
    "choices": ["a", "b"],
    "text_pair": "b",
}


@pytest.mark.parametrize(
    ("task", "record", "mentions"),
    [
        (TEXT, {"txt": "a", "label": "x"}, "no column 'text' among ['label', 'txt']: name yours with --column text=…"),
        (TEXT, {"premise": "a", "hypo": "b", "label": "x"}, "no column 'text' among ['hypo', 'label', 'premise']"),
        (TEXT, {"text": "a"}, "no column 'label' among ['text']: name yours with --column label=…, of several"),
        (TEXT, {"text": "a", "label": None}, "column 'label' is null here: a value is needed"),
        (TEXT, {"text": None, "label": "x"}, "column 'text' is null here"),
        (TEXT, {"premise": "a", "hypothesis": None, "label": "x"}, "column 'hypothesis' is null here"),
        (TEXT, {"text": 5, "label": "x"}, "text is 5: a string is needed"),
        (TEXT, {"text": "a", "text_pair": ["b"], "label": "x"}, "text_pair is ['b']: a string is needed"),
        (TEXT, {"text": "a", "label": ""}, "label is '': the name of a class is needed"),
        (TEXT, {"text": "a", "label": 2.5}, "label is 2.5: a class needs a name or a whole number"),
        (TEXT, {"text": "a", "label": ["x"]}, "label is ['x']: one class is needed; several go by --column labels=…"),
        (TEXT, {"text": "a", "label": {"x": 1}}, "label is {'x': 1}: the name of a class is needed"),
        (TEXT, {"text": "a", "labels": 3}, "labels is 3: a list or names joined by | is needed; one goes by --column"),
        (TEXT, {"text": "a", "value": "much"}, "value is 'much': a finite number is needed"),
        (TEXT, {"text": "a", "value": True}, "value is True: a finite number is needed"),
        (TEXT, {"text": "a", "value": "inf"}, "value is 'inf': a finite number is needed"),
        (TEXT, {"text": "a", "value": 10**400}, "a finite number is needed"),
        (TEXT, {"text": "a", "labels": ["x"]}, "the target is a list of labels, but {path}, line 1 has one label"),
        (TEXT, {"text": "a", "value": 1}, "the target is a number, but {path}, line 1 has one label"),
        (TAGS, {"tokens": ["a"], "tags": []}, "1 tokens but 0 tags: one tag per token is needed"),
        (TAGS, {"tokens": ["a"], "tags": [3]}, "tags are [3]: names are needed"),
        (TAGS, {"tokens": [1], "tags": ["O"]}, "tokens is [1]: a list of strings"),
        (TAGS, {"tokens": ["a"]}, "no column 'tags' among ['tokens']"),
        (CHOICE, {"text": "a", "choice1": "b", "label": 0}, "choices is ['b']: two strings at least are needed"),
        (CHOICE, {"text": "a", "choices": [], "label": 0}, "choices is []: two strings at least are needed"),
        (CHOICE, {"text": "a", "choices": ["b", 2], "label": 0}, "choices is ['b', 2]: a list of strings is needed"),
        (CHOICE, {"text": "a", "label": 0}, "no column 'choices' among ['label', 'text']"),
        (CHOICE, {"text": "a", "choices": ["b", "c"], "label": 2}, "label 2 names none of 2 choices"),
        (CHOICE, {"text": "a", "choices": ["b", "c"], "label": -1}, "label -1 names none of 2 choices"),
        (CHOICE, {"text": "a", "choices": ["b", "c"], "label": "x"}, "label 'x' names none of 2 choices"),
        (CHOICE, {"text": "a", "choices": ["b", "c"]}, "no column 'label'"),
        (
            CHOICE,
            {"premise": "a", "question": "why", "choices": ["b", "c"], "label": 0},
            "question is 'why': one of cause, effect is needed",
        ),
        (EMBEDDING, {"text": "a"}, "no column 'text_pair' among ['text']"),
        (EMBEDDING, {"text": "a", "positive": {"title": "b"}}, "text of positive is None: a string is needed"),
        (EMBEDDING, {"text": "a", "text_pair": "b", "score": None}, "column 'score' is null here"),
        (EMBEDDING, {"text": "a", "text_pair": "b", "score": "high"}, "value is 'high': a finite number is needed"),
    ],
)
def test_a_faulty_record_is_named(tmp_path: Path, task: str, record: dict[str, Any], mentions: str) -> None:
    good = {**GOOD, "value": 0} if task == EMBEDDING else GOOD
    path = jsonl(tmp_path, good, good, record)
    message = refused(path, task)
    assert message.startswith("line 3: ")
    assert mentions.replace("{path}", str(path)) in message


def test_scores_are_all_there_or_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a", "text_pair": "b", "score": 1}, {"text": "a", "text_pair": "b"})
    assert "line 2: the target is a pair without a score, but " in refused(path, EMBEDDING)


def test_a_mapped_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a", "label": "x"})
    assert "line 1: no column 'premise', which --column text=premise names, among" in refused(path, text="premise")


def test_a_mapped_name_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    """The file's own `text` would be read instead, or what `value` names instead of what `label` does."""
    path = jsonl(tmp_path, {"text": "a", "label": "x", "body": "b", "stars": 3})
    assert refused(path, txt="body").startswith(f"{path}: no column 'txt', which --column txt=body names, is read; ")
    assert refused(path, label="body", value="stars").startswith(
        f"{path}: no column 'label', which --column label=body"
    )
    assert refused(path, txt="body").endswith(", sentence1, sentence2, text, text_pair, value")
    wsc = {"text": "a b", "spans": {"span1_text": "a", "span1_index": 0, "span2_text": "b", "span2_index": 1}}
    assert one(tmp_path, TEXT, wsc | {"label": True}, "wsc", target="spans").target == "True"
    unanswerable = {"question": "q", "context": "c", "answers": {"text": [], "answer_start": []}, "none": True}
    assert one(tmp_path, ANSWERS, unanswerable, is_impossible="none").target == GoldAnswers((), ())


def test_ids_that_come_twice(tmp_path: Path) -> None:
    record = {"text": "a", "label": "x"}
    path = jsonl(tmp_path, record | {"id": 7}, record | {"id": None}, record, record | {"id": "b"}, record | {"id": 7})
    assert refused(path).startswith(f"line 5: id 7 stands at {path}, line 1 already: make ids unique")
    fine = jsonl(tmp_path, record | {"idx": 7}, record | {"idx": 7})
    assert len(read_examples(fine, TEXT, {})) == 2


def test_nothing_to_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "text,label\n")
    assert refused(path) == f"{path} holds no record: at least one is needed"


def test_a_format_keeps_its_own_fields(tmp_path: Path) -> None:
    wic = {"sentence1": "a", "sentence2": "b", "word": "w", "idx": 3, "label": True}
    wanted = Example({"sentence1": "a", "sentence2": "b", "word": "w"}, "True")
    assert one(tmp_path, TEXT, wic, "wic") == wanted
    assert one(tmp_path, TEXT, wic | {"idx": "x"}, "wic", word="idx").input["word"] == "x"
    for name in ("cb", "rte"):
        record = {"premise": "a", "hypothesis": "b", "label": "x"}
        assert one(tmp_path, TEXT, record, name) == Example({"premise": "a", "hypothesis": "b"}, "x")
    boolq = {"question": "a", "passage": "b", "title": "t", "label": False}
    assert one(tmp_path, TEXT, boolq, "boolq") == Example({"question": "a", "passage": "b"}, "False")
    stsb = {"sentence1": "a", "sentence2": "b", "score": 2.5}
    assert one(tmp_path, TEXT, stsb, "stsb") == Example({"sentence1": "a", "sentence2": "b"}, 2.5)


@pytest.mark.parametrize("input_format", ["wsc", "wsc.template1"])
def test_wsc_nested_as_superglue_has_it_or_flat(tmp_path: Path, input_format: str) -> None:
    target = {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 4}
    text = "Ann asked Mary because she had forgotten."
    spans = {"span1": "Ann", "span2": "she", "span1_index": 0, "span2_index": 4}
    wanted = Example({"text": text, **spans}, "True")
    assert one(tmp_path, TEXT, {"text": text, "target": target, "label": True}, input_format) == wanted
    assert one(tmp_path, TEXT, {"text": text, **target, "label": True}, input_format) == wanted


def test_srl_in_jsonl_and_csv(tmp_path: Path) -> None:
    wanted = Example({"tokens": ["a", "b"], "predicate_index": 1}, ("O", "B-V"))
    srl = {"tokens": ["a", "b"], "tags": ["O", "B-V"], "predicate_index": 1}
    assert one(tmp_path, TAGS, srl, "srl") == wanted
    path = csv_file(tmp_path, "tokens,tags,predicate_index\na b,O B-V,1\n")
    assert read_examples(path, TAGS, {}, "srl") == [wanted]


@pytest.mark.parametrize(
    ("task", "input_format", "record", "mentions"),
    [
        (TEXT, "wic", {"sentence1": "a", "sentence2": "b", "label": "x"}, "no column 'word' among ['label', "),
        (TEXT, "wic", {"sentence1": "a", "sentence2": "b", "word": 1, "label": "x"}, "word is a number; a string"),
        (
            TEXT,
            "wsc.template1",
            {"text": "a", "span1": "a", "span2": "b", "label": "x"},
            "stands in 0 places of the text",
        ),
        (TAGS, "srl", {"tokens": ["a"], "predicate_index": 1, "tags": ["O"]}, "predicate_index is 1, but there are 1"),
        (TAGS, "srl", {"tokens": ["a"], "predicate_index": 0, "tags": []}, "1 tokens but 0 tags"),
    ],
)
def test_a_faulty_record_of_a_format(
    tmp_path: Path, task: str, input_format: str, record: dict[str, Any], mentions: str
) -> None:
    message = refused(jsonl(tmp_path, record), task, input_format)
    assert message.startswith("line 1: ")
    assert mentions in message


def test_blank_texts_are_left_to_the_trainer(tmp_path: Path) -> None:
    assert one(tmp_path, TEXT, {"text": " ", "label": "x"}).input == " "
    wic = {"sentence1": " ", "sentence2": "b", "word": "w", "label": "x"}
    assert one(tmp_path, TEXT, wic, "wic").input["sentence1"] == " "


def test_formats_and_tasks_that_do_not_fit(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"sentence1": "a", "sentence2": "b", "label": "True"})
    with pytest.raises(InvalidRequest, match=r"'srl' is none of task 'text-classification'; allowed: plain, boolq, "):
        read_examples(path, TEXT, {}, "srl")
    with pytest.raises(InvalidRequest, match=r"'xyz' is none of task 'text-embedding'; allowed: plain$"):
        read_examples(path, EMBEDDING, {}, "xyz")
    with pytest.raises(InvalidRequest, match="task 'ner' is not known; allowed: text-classification, "):
        read_examples(path, "ner", {})


def test_a_dev_label_without_training_data_is_named() -> None:
    dev = [Example("a", "x", "dev.jsonl, line 1"), Example("b", "z", "dev.jsonl, line 2"), Example("c", "y", "line 3")]
    check_known_labels(TEXT, ["x", "y", "z"], dev)
    with pytest.raises(InvalidRequest) as caught:
        check_known_labels(TEXT, ["x"], dev)
    assert caught.value.detail == (
        "dev.jsonl, line 2: label 'z' is not known: the file has labels that the training data lacks: ['y', 'z']; "
        "allowed: x"
    )
    with pytest.raises(
        InvalidRequest, match="line 2: label 'z' is not known: the file has labels that --labels lacks: "
    ):
        check_known_labels(TEXT, ["x", "y"], dev, "--labels")


@pytest.mark.parametrize(
    ("labels", "target", "mentions"),
    [
        (["O"], ("O", "B-x"), "label 'B-x' is not known"),
        ([], "x", "label 'x' is not known: .* allowed: numbers only"),
        (["x"], 1.0, "a number, 1.0, where the training data has labels"),
        (["x"], CandidateLabels(("a",), ("True",)), "label 'True' is not known"),
    ],
)
def test_dev_targets_that_training_has_not(labels: list[str], target: Target, mentions: str) -> None:
    with pytest.raises(InvalidRequest, match=f"dev.csv, line 9: {mentions}"):
        check_known_labels(TEXT, labels, [Example("a", target, "dev.csv, line 9")])


def test_dev_targets_without_names_are_not_checked() -> None:
    for target in (GoldAnswers(("a",), (0,)), Similarity(1.0), 3):
        check_known_labels(TEXT, [], [Example("a", target)])


def test_labels_are_sorted_and_outside_comes_first() -> None:
    tags = [Example({}, ("I-a", "O", "B-b")), Example({}, ("B-a",))]
    assert labels_of("token-classification", tags) == ["O", "B-a", "I-a", "B-b"]
    assert labels_of("text-classification", [Example("", "y"), Example("", "x"), Example("", "y")]) == ["x", "y"]
    assert labels_of("text-classification", [Example("", 1.0)]) == []
    assert labels_of("question-answering", [Example({}, GoldAnswers((), ()))]) == []
    assert labels_of(EMBEDDING, [Example((), Similarity(1.0))]) == []
    assert labels_of(TEXT, [Example({}, CandidateLabels(("a",), ("True",)))]) == ["False", "True"]


def test_the_problem_is_told_by_the_target() -> None:
    for target, problem in (("x", "single_label"), (("x",), "multi_label"), (1.0, "regression")):
        assert problem_of("text-classification", [Example("", target)]) == problem
    assert problem_of("token-classification", [Example({}, ("O",))]) == "single_label"
