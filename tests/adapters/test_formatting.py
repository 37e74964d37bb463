"""Input formats: token ids equal to those of the original preprocessing, and every way to get an input wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixrack.errors import EmptyInput, InputTooLong, InvalidInput, LabelMismatch
from prefixrack.types import Parameters
from prefixrack_adapters.formats import FORMATS
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, build_task
from prefixrack_adapters.tokenizer import BackboneTokenizer
from tiny import MakeTask, make_manifest, prepare_one, vocabulary

CASES = os.environ.get("PREFIXRACK_REFERENCE_CASES")
BACKBONES = ("bert-tiny", "roberta-tiny")
MAX_LEN = 128

Fields = Mapping[str, Any]


def as_sent(example: Fields) -> dict[str, Any]:
    return dict(example)


def without(*names: str) -> Callable[[Fields], dict[str, Any]]:
    return lambda example: {name: value for name, value in example.items() if name not in names}


def multirc_input(example: Fields) -> dict[str, Any]:
    return {"paragraph": example["paragraph"], "question": example["question"], "answers": [example["answer"]]}


def wic_input(example: Fields) -> dict[str, Any]:
    return {name: example[name] for name in ("sentence1", "sentence2", "word")}


def copa_input(example: Fields) -> dict[str, Any]:
    choices = [example["choice1"], example["choice2"]]
    return {"premise": example["premise"], "question": example["question"], "choices": choices}


def srl_input(example: Fields) -> dict[str, Any]:
    return {"tokens": example["tokens"], "predicate_index": int(example["index"])}


# Key of the reference file → input format, and what a caller sends for its example.
KEYS: dict[str, tuple[str, Callable[[Fields], dict[str, Any]]]] = {
    "boolq.template0": ("boolq", as_sent),
    "cb.template0": ("cb", as_sent),
    "rte.template0": ("rte", as_sent),
    "multirc.template0": ("multirc", multirc_input),
    "wic.template0": ("wic", wic_input),
    "wic.template1": ("wic.template1", wic_input),
    "wsc.template0": ("wsc", as_sent),
    "wsc.template1": ("wsc.template1", as_sent),
    "copa.template0": ("copa", copa_input),
    "record.template0": ("record", without("answers", "idx")),
    "glue.mnli": ("mnli", as_sent),
    "glue.sst2": ("sst2", as_sent),
    "glue.stsb": ("stsb", as_sent),
    "glue.qnli": ("qnli", as_sent),
    "glue.rte": ("rte", as_sent),
    "glue.cola": ("cola", as_sent),
    "ner": ("plain", without("ner_tags")),
    "srl": ("srl", srl_input),
}


@pytest.fixture(scope="module", params=BACKBONES)
def reference(request: pytest.FixtureRequest) -> tuple[dict[str, Any], BackboneTokenizer]:
    if CASES is None:
        pytest.skip("PREFIXRACK_REFERENCE_CASES does not name a folder of reference cases")
    cases = json.loads((Path(CASES) / "formatting" / f"{request.param}.json").read_text(encoding="utf-8"))
    return cases, BackboneTokenizer.load(Path(CASES) / "backbones" / request.param)


def task_of(key: str, input_format: str, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> AnyTask:
    """An adapter as the original code trains it: 128 tokens, longer inputs cut. Its prefix leaves room for them."""
    task = FORMATS[input_format].task if input_format in FORMATS else "token-classification"
    labels = ("O", "B-x") if task == "token-classification" else ("False", "True")
    manifest = make_manifest(
        spec, task=task, labels=labels, prefix_len=0, max_len=MAX_LEN, input_format=input_format, overlong="truncate"
    )
    return build_task(manifest, replace(spec, max_positions=512), tokenizer)


def examples_of(example: Mapping[str, Sequence[Any]]) -> Iterator[Fields]:
    """The file holds columns; an example is one value of each."""
    for values in zip(*example.values(), strict=True):
        yield dict(zip(example, values, strict=True))


def flat(ids: Sequence[Any]) -> list[list[int]]:
    return [row for one in ids for row in (one if one and isinstance(one[0], list) else [one])]


@pytest.mark.parametrize("key", KEYS)
def test_token_ids_are_those_of_the_original(
    reference: tuple[dict[str, Any], BackboneTokenizer], key: str, spec: BackboneSpec
) -> None:
    cases, tokenizer = reference
    input_format, as_input = KEYS[key]
    task = task_of(key, input_format, spec, tokenizer)
    inputs = [as_input(one) for one in examples_of(cases[key]["example"])]
    rows = [row for value in inputs for row in prepare_one(task, value).rows]
    features = cases[key]["features"]
    assert [list(row.token_ids) for row in rows] == flat(features["input_ids"])
    if features.get("token_type_ids"):
        assert [list(row.segment_ids) for row in rows] == flat(features["token_type_ids"])


def test_every_key_of_the_reference_is_tried(reference: tuple[dict[str, Any], BackboneTokenizer]) -> None:
    assert set(reference[0]) == set(KEYS)


@pytest.mark.parametrize("key", ["ner", "srl"])
def test_labels_are_read_where_the_original_put_them(
    reference: tuple[dict[str, Any], BackboneTokenizer], key: str, spec: BackboneSpec
) -> None:
    cases, tokenizer = reference
    input_format, as_input = KEYS[key]
    task = task_of(key, input_format, spec, tokenizer)
    for example, labels in zip(examples_of(cases[key]["example"]), cases[key]["features"]["labels"], strict=True):
        places = prepare_one(task, as_input(example)).places
        assert [place[1] for place in places if place is not None] == [
            index for index, label in enumerate(labels) if label != -100
        ]


def ids(*words: str) -> tuple[int, ...]:
    vocab = vocabulary()
    return tuple(vocab[word] for word in words)


PAIR = ("[CLS]", "cat", "[SEP]", "dog", "[SEP]")
TEXTS: dict[str, tuple[dict[str, Any], list[tuple[str, ...]]]] = {
    "boolq": ({"question": "cat", "passage": "dog"}, [PAIR]),
    "cb": ({"premise": "cat", "hypothesis": "dog"}, [PAIR]),
    "rte": ({"premise": "cat", "hypothesis": "dog"}, [PAIR]),
    "mnli": ({"premise": "cat", "hypothesis": "dog"}, [PAIR]),
    "mrpc": ({"sentence1": "cat", "sentence2": "dog"}, [PAIR]),
    "stsb": ({"sentence1": "cat", "sentence2": "dog"}, [PAIR]),
    "wnli": ({"sentence1": "cat", "sentence2": "dog"}, [PAIR]),
    "qqp": ({"question1": "cat", "question2": "dog"}, [PAIR]),
    "qnli": ({"question": "cat", "sentence": "dog"}, [PAIR]),
    "sst2": ({"sentence": "cat"}, [("[CLS]", "cat", "[SEP]")]),
    "cola": ({"sentence": "cat"}, [("[CLS]", "cat", "[SEP]")]),
    "wic.template1": (
        {"sentence1": "a cat", "sentence2": "the cat", "word": "cat"},
        [("[CLS]", "cat", ":", "a", "cat", "[SEP]", "cat", ":", "the", "cat", "[SEP]")],
    ),
    "wsc": (
        {"text": "cat sat", "span1": "cat", "span2": "a"},
        [("[CLS]", "a", ":", "cat", "sat", "[SEP]", "cat", "[SEP]")],
    ),
    "wsc.template1": (
        {"text": "cat sat, dog  in the rain.", "span1": "cat", "span2": "sat"},
        [("[CLS]", "cat", "*", "sat", ",", "*", "dog", "in", "the", "rain", ".", "[SEP]", "cat", "[SEP]")],
    ),
    "multirc": (
        {"passage": "cat sat", "question": "who ?", "answers": ["cat", "a dog"]},
        [
            ("[CLS]", "cat", "sat", "[SEP]", "who", "?", "cat", "[SEP]"),
            ("[CLS]", "cat", "sat", "[SEP]", "who", "?", "a", "dog", "[SEP]"),
        ],
    ),
    "record": (
        {"passage": "a\n@highlight\ncat", "query": "@placeholder sat on @placeholder", "entities": ["dog", "rain"]},
        [
            ("[CLS]", "a", "-", "cat", "[SEP]", "dog", "sat", "on", "dog", "[SEP]"),
            ("[CLS]", "a", "-", "cat", "[SEP]", "rain", "sat", "on", "rain", "[SEP]"),
        ],
    ),
    "srl": (
        {"tokens": ["the", "cat", "sat"], "predicate_index": 2},
        [("[CLS]", "the", "cat", "sat", "[SEP]", "sat", "[SEP]")],
    ),
    "squad": ({"question": " cat", "context": "dog", "id": 7, "title": "t", "answers": {}}, [PAIR]),
}


def formatted(make_task: MakeTask, name: str, **options: Any) -> AnyTask:
    task = FORMATS[name].task
    labels = ("O", "B-x") if task == "token-classification" else ("no", "yes")
    return make_task(task=task, labels=labels, input_format=name, **options)


@pytest.mark.parametrize("name", TEXTS)
def test_a_format_puts_its_fields_into_words(make_task: MakeTask, name: str) -> None:
    value, wanted = TEXTS[name]
    rows = prepare_one(formatted(make_task, name), value).rows
    assert [row.token_ids for row in rows] == [ids(*words) for words in wanted]


def test_wic_asks_a_question() -> None:
    plain = FORMATS["wic"].plain({"sentence1": "One bank.", "sentence2": "Two banks.", "word": "bank"})
    assert plain == {"text": "One bank. Two banks. Does bank have the same meaning in both sentences?"}


@pytest.mark.parametrize(("question", "connective"), [("cause", "because"), ("effect", "so")])
def test_copa_keeps_the_premises_full_stop(question: str, connective: str) -> None:
    plain = FORMATS["copa"].plain({"premise": "It rained.", "question": question, "choices": ["a", "b"]})
    assert plain == {"text": f"It rained. {connective}", "choices": ["a", "b"]}


def test_wsc_marks_the_word_that_the_index_names() -> None:
    value = {"text": "it is  it", "span1": "x", "span2": "it", "span2_index": 2}
    assert FORMATS["wsc.template1"].plain(value)["text"] == "it is *it*"


@pytest.mark.parametrize("span2", ["it", "she", "it was"])
def test_wsc_asks_for_the_index_where_the_text_does_not_tell(span2: str) -> None:
    with pytest.raises(InvalidInput, match=r"span2 .* stands in \d places.*span2_index"):
        FORMATS["wsc.template1"].plain({"text": "it is it", "span1": "x", "span2": span2})


def test_wsc_finds_a_span_of_several_words() -> None:
    value = {"text": "Ann saw that boy, who ran.", "span1": "Ann", "span2": "that boy"}
    assert FORMATS["wsc.template1"].plain(value)["text"] == "Ann saw *that* boy, who ran."


PLAIN_INPUTS: dict[str, Any] = {
    "text-classification": {"text": "cat", "text_pair": "dog"},
    "multiple-choice": {"text": "cat", "choices": ["dog", "mat"]},
    "token-classification": {"tokens": ["cat", "dog"]},
    "question-answering": {"question": "cat", "context": "dog"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_plain_inputs_are_taken_as_they_are(make_task: MakeTask, name: str) -> None:
    value = PLAIN_INPUTS[FORMATS[name].task]
    wanted = prepare_one(make_task(task=FORMATS[name].task, labels=("O", "B-x")), value).rows
    assert prepare_one(formatted(make_task, name), value).rows == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_example_and_schema_belong_to_the_format(make_task: MakeTask, name: str) -> None:
    task = formatted(make_task, name, max_len=64, overlong="truncate")
    example: Any = task.example()
    assert example == FORMATS[name].example
    assert prepare_one(task, example).rows
    schema, plain = task.input_schema()["anyOf"]
    assert set(example) <= set(schema["properties"])
    assert set(schema["required"]) <= set(example)
    assert plain == make_task(task=FORMATS[name].task, labels=("O", "B-x")).input_schema()


@pytest.mark.parametrize(
    ("name", "value", "fault", "mentions"),
    [
        ("boolq", {"question": "cat"}, InvalidInput, r"lacks \['passage'\].*'boolq' has question, passage"),
        ("boolq", {}, InvalidInput, r"lacks \['question', 'passage'\]"),
        ("boolq", {"question": "a", "passage": "b", "label": 1}, InvalidInput, r"unknown fields \['label'\]"),
        ("boolq", {"question": "a", "passage": " "}, EmptyInput, "passage is empty"),
        ("boolq", 3, InvalidInput, "a number"),
        ("rte", {"premise": "a", "sentence1": "b", "hypothesis": "c"}, InvalidInput, r"twice \['sentence1'\]"),
        ("rte", {"sentence1": 1, "sentence2": "b"}, InvalidInput, "sentence1 is a number"),
        ("multirc", {"passage": "a", "question": "b", "answers": []}, InvalidInput, "answers has 0 entries; a list of"),
        ("multirc", {"passage": "a", "question": "b", "answers": "c"}, InvalidInput, "answers has a string"),
        ("multirc", {"passage": "a", "question": "b", "answers": ["c", ""]}, EmptyInput, r"answers\[1\] is empty"),
        ("record", {"passage": "a", "query": "b", "entities": ["c"]}, InvalidInput, "query has no @placeholder"),
        ("copa", {"premise": "a", "question": "why", "choices": ["b", "c"]}, InvalidInput, "'why'; one of 'cause', "),
        ("copa", {"premise": "a", "question": None, "choices": ["b", "c"]}, InvalidInput, r"lacks \['question'\]"),
        ("copa", {"premise": "a", "question": "cause", "choices": ["b"]}, InvalidInput, "choices has 1 entries"),
        ("srl", {"tokens": ["a"], "predicate_index": 1}, InvalidInput, "predicate_index is 1, but there are 1 tokens"),
        ("srl", {"tokens": ["a"], "predicate_index": -1}, InvalidInput, "predicate_index is -1; a whole number from 0"),
        ("srl", {"tokens": ["a"], "predicate_index": True}, InvalidInput, "predicate_index is a boolean"),
        ("srl", {"tokens": ["a"], "predicate_index": "0"}, InvalidInput, "predicate_index is a string"),
        (
            "wsc.template1",
            {"text": "a b", "span1": "a", "span2": "b", "span2_index": 2},
            InvalidInput,
            "span2_index is 2, but the text has 2 words",
        ),
    ],
)
def test_faulty_inputs(make_task: MakeTask, name: str, value: Any, fault: type[Exception], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        prepare_one(formatted(make_task, name), value)


def finished(task: AnyTask, value: Any, by_row: list[list[float]], **parameters: Any) -> dict[str, Any]:
    rows = [np.array(row, dtype=np.float32) for row in by_row]
    return task.finish(prepare_one(task, value, **parameters), rows, Parameters(**parameters)).model_dump()


def test_every_answer_is_judged_for_itself(make_task: MakeTask) -> None:
    task = formatted(make_task, "multirc")
    value = {"passage": "cat", "question": "who", "answers": ["dog", "cat", "rain"]}
    output = finished(task, value, [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], logits=True)
    assert [(one["text"], one["label"]) for one in output["judged"]] == [("dog", "no"), ("cat", "yes"), ("rain", "yes")]
    assert output["judged"][0]["score"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert output["logits"] == [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]
    narrow = finished(task, value, [[2.0, 0.0]] * 3, top_k=1)
    assert [len(one["scores"]) for one in narrow["judged"]] == [1, 1, 1]


def test_entities_are_ranked_by_the_raw_second_logit(make_task: MakeTask) -> None:
    """By probability the first would win: its logits are further apart."""
    task = formatted(make_task, "record")
    value = {"passage": "cat", "query": "@placeholder", "entities": ["dog", "cat", "rain"]}
    output = finished(task, value, [[-9.0, 1.0], [3.0, 2.0], [0.0, 0.0]], logits=True)
    assert output["entity"] == "cat"
    assert [entry["label"] for entry in output["entities"]] == ["cat", "dog", "rain"]
    assert sum(entry["score"] for entry in output["entities"]) == pytest.approx(1)
    assert output["score"] == output["entities"][0]["score"]
    assert output["logits"] == [[-9.0, 1.0], [3.0, 2.0], [0.0, 0.0]]
    assert len(finished(task, value, [[0.0, 0.0]] * 3, top_k=2)["entities"]) == 2


@pytest.mark.parametrize("entities", [["cat", "rain", "dog"], ["rain", "dog", "cat"]])
def test_a_tie_goes_to_the_later_string(make_task: MakeTask, entities: list[str]) -> None:
    value = {"passage": "cat", "query": "@placeholder", "entities": entities}
    assert finished(formatted(make_task, "record"), value, [[0.0, 1.5]] * 3)["entity"] == "rain"


def test_windows_of_a_candidate_are_merged_before_candidates_meet(make_task: MakeTask) -> None:
    task = formatted(make_task, "record", max_len=12)
    value = {"passage": "cat", "query": "@placeholder " + "mat " * 9, "entities": ["dog", "rain"]}
    with pytest.raises(InputTooLong, match="candidate 0: the input has"):
        prepare_one(task, value)
    one = prepare_one(task, value, overlong="window")
    assert [len(part.rows) for part in one.parts] == [2, 2]
    weights = [len(row) for row in one.rows]
    output = finished(task, value, [[0, 4.0], [0, 0.0], [0, 3.0], [0, 3.0]], overlong="window", logits=True)
    assert output["entity"] == "rain"
    assert output["logits"][0][1] == pytest.approx(4.0 * weights[0] / (weights[0] + weights[1]))


def test_a_plain_input_is_answered_as_one_pair(make_task: MakeTask) -> None:
    for name in ("multirc", "record"):
        output = finished(formatted(make_task, name), {"text": "cat", "text_pair": "dog"}, [[0.0, 1.0]])
        assert output["label"] == "yes"
    with pytest.raises(InputTooLong, match=r"^the input has"):
        prepare_one(formatted(make_task, "record", max_len=8), "cat " * 9)


def test_roles_are_given_to_the_sentence_alone(make_task: MakeTask) -> None:
    task = formatted(make_task, "srl")
    value = {"tokens": ["cat", "sat"], "predicate_index": 1}
    one = prepare_one(task, value)
    logits = np.zeros((len(one.rows[0]), 2), dtype=np.float32)
    logits[2:, 1] = 4.0  # the tail too
    output = task.finish(one, [logits], Parameters(logits=True)).model_dump()
    assert output["tags"] == ["O", "B-x"]
    assert [(span["text"], span["word_start"], span["word_end"]) for span in output["spans"]] == [("sat", 1, 2)]
    assert len(output["logits"]) == len(output["logit_offsets"]) == 2


def test_every_window_of_a_sentence_has_its_predicate(make_task: MakeTask) -> None:
    task = formatted(make_task, "srl", max_len=12)
    words = [("cat", "dog", "rain")[index % 3] for index in range(30)]
    one = prepare_one(task, {"tokens": words, "predicate_index": 0})
    assert len(one.rows) > 3
    for row in one.rows:
        assert len(row) <= 12
        assert row.token_ids[-3:] == ids("[SEP]", "cat", "[SEP]")
    for word, (row, index) in zip(words, one.places, strict=True):
        assert one.rows[row].token_ids[index] == vocabulary()[word]
    with pytest.raises(InputTooLong, match="shorten the predicate"):
        prepare_one(task, {"tokens": ["xyz" * 4, *words], "predicate_index": 0})


@pytest.mark.parametrize(
    ("num_words", "tail"), [(7, ("[SEP]", "cat")), (8, ("[SEP]", "cat")), (9, ("[SEP]",)), (12, ())]
)
def test_a_cut_sentence_loses_its_predicate_first(make_task: MakeTask, num_words: int, tail: tuple[str, ...]) -> None:
    task = formatted(make_task, "srl", max_len=12, overlong="truncate")
    one = prepare_one(task, {"tokens": ["cat"] * num_words, "predicate_index": 0})
    assert one.truncated == (num_words > 8)
    assert one.rows[0].token_ids == ids("[CLS]", *["cat"] * min(num_words, 10), *tail, "[SEP]")
    assert [place is not None for place in one.places] == [index < 10 for index in range(num_words)]


def test_an_unknown_format_is_refused_with_those_that_fit(spec: BackboneSpec) -> None:
    content = json.loads(make_manifest(spec).to_bytes())
    with pytest.raises(ValueError, match=r"input_format is 'sst3'.*'plain'.*'boolq'.*'wsc.template1'") as caught:
        Manifest.model_validate(content | {"input_format": "sst3"})
    assert "copa" not in str(caught.value)


@pytest.mark.parametrize(("name", "task"), [("copa", "text-classification"), ("boolq", "multiple-choice")])
def test_a_format_of_another_task_is_refused(spec: BackboneSpec, name: str, task: str) -> None:
    with pytest.raises(ValueError, match=f"input_format is '{name}', but task '{task}' needs 'plain'"):
        make_manifest(spec, task=task, input_format=name)


def test_a_text_embedding_has_no_format_but_plain(spec: BackboneSpec) -> None:
    with pytest.raises(ValueError, match=r"but task 'text-embedding' needs 'plain' \["):
        make_manifest(spec, task="text-embedding", input_format="boolq")


def test_candidates_need_named_single_labels(spec: BackboneSpec) -> None:
    with pytest.raises(LabelMismatch, match="'record' needs 2 labels, seen 1"):
        make_manifest(spec, labels=("yes",), input_format="record")
    with pytest.raises(ValueError, match=r"'multirc' needs decoding\.problem 'single_label', seen 'multi_label'"):
        make_manifest(spec, input_format="multirc", decoding={"problem": "multi_label"})
