"""Token classification: words and windows, tags joined to spans, offsets into the string as sent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixrack.errors import EmptyInput, InputFault, InputTooLong, InvalidInput, InvalidRequest, InvalidUnicode
from prefixrack.types import Parameters
from prefixrack_adapters.tasks import AnyTask
from prefixrack_adapters.tasks.token_classification import TaggedSpan, join_tags
from tiny import MAX_POSITIONS, MakeTask, cut, prepare_one, vocabulary

CLS, SEP, CAT = (vocabulary()[piece] for piece in ("[CLS]", "[SEP]", "cat"))
LABELS = ("O", "B-per", "I-per", "B-loc", "I-loc")
FAMILY = "\U0001f468‍\U0001f469‍\U0001f467"


@pytest.fixture(scope="module")
def task(make_task: MakeTask) -> AnyTask:
    return make_task(task="token-classification", labels=LABELS, max_len=48)


def tagged(task: AnyTask, value: object, tags: list[str], height: float = 5.0, **parameters: Any) -> dict[str, Any]:
    """The output where every word's first token carries the logits of the wanted tag."""
    asked = Parameters(**parameters)
    one = prepare_one(task, value, **parameters)
    logits = [np.zeros((len(row), len(LABELS)), dtype=np.float32) for row in one.rows]
    assert len(tags) == len(one.places), [one.source.words, tags]
    for place, tag in zip(one.places, tags, strict=True):
        if place is not None:
            logits[place[0]][place[1], LABELS.index(tag)] = height
    return task.finish(one, logits, asked).model_dump()


def spans(output: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    return [(one["label"], one["text"], one["start"], one["end"]) for one in output["spans"]]


@pytest.mark.parametrize(
    ("value", "fault", "mentions"),
    [
        (None, InvalidInput, "null"),
        ([["cat"]], InvalidInput, "a list"),
        ({"text": "cat"}, InvalidInput, r"lacks \['tokens'\]"),
        ({"tokens": ["cat"], "text": "cat"}, InvalidInput, r"unknown fields \['text'\]"),
        ({"tokens": "cat"}, InvalidInput, "tokens is a string; a list of words"),
        ({"tokens": []}, EmptyInput, "tokens is empty"),
        ({"tokens": ["cat", 3]}, InvalidInput, r"tokens\[1\] is a number"),
        ({"tokens": ["cat", " "]}, EmptyInput, r"tokens\[1\] is empty"),
        ({"tokens": ["\ud800"]}, InvalidUnicode, r"tokens\[0\]"),
        ("", EmptyInput, "the text is empty"),
        ("cat \udfff", InvalidUnicode, "at character 4"),
    ],
)
def test_faulty_inputs(task: AnyTask, value: object, fault: type[InputFault], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        prepare_one(task, value)


def test_spans_of_raw_text(task: AnyTask) -> None:
    output = tagged(task, "Ada Cat was in Paris.", ["B-per", "I-per", "O", "O", "B-loc", "O"])
    assert spans(output) == [("per", "Ada Cat", 0, 7), ("loc", "Paris", 15, 20)]
    assert output["tags"] is None
    assert output["spans"][0]["word_start"] is None


def test_spans_of_given_words(task: AnyTask) -> None:
    output = tagged(task, {"tokens": ["Ada", "was", "in", "New York"]}, ["B-per", "O", "O", "B-loc"])
    assert spans(output) == [("per", "Ada", 0, 3), ("loc", "New York", 11, 19)]
    assert output["tags"] == ["B-per", "O", "O", "B-loc"]
    assert (output["spans"][1]["word_start"], output["spans"][1]["word_end"]) == (3, 4)


def test_a_span_scores_the_mean_of_its_words(task: AnyTask) -> None:
    one = prepare_one(task, "ada cat")
    logits = np.zeros((len(one.rows[0]), len(LABELS)), dtype=np.float32)
    logits[1, 1], logits[2, 2] = 2.0, 4.0
    (span,) = task.finish(one, [logits], Parameters()).model_dump()["spans"]
    first, second = (math.exp(value) / (math.exp(value) + 4) for value in (2.0, 4.0))
    assert span["score"] == pytest.approx((first + second) / 2)


def test_a_words_label_is_read_at_its_first_token(task: AnyTask) -> None:
    one = prepare_one(task, {"tokens": ["catx", "cat"]})
    assert one.places == ((0, 1), (0, 3))


def test_a_word_without_a_token_is_outside(task: AnyTask) -> None:
    value = {"tokens": ["ada", "\0", "paris"]}
    one = prepare_one(task, value)
    assert one.places[1] is None
    output = tagged(task, value, ["B-per", "B-per", "B-loc"])
    assert output["tags"] == ["B-per", "O", "B-loc"]


def test_nul_is_text_with_exact_offsets(task: AnyTask) -> None:
    text = "a\0 ada\0paris"
    output = tagged(task, text, ["O", "O", "B-per", "O", "B-loc"])
    assert spans(output) == [("per", "ada", 3, 6), ("loc", "paris", 7, 12)]
    assert all(text[start:end] == shown for _, shown, start, end in spans(output))


def test_nothing_but_control_characters_has_no_span(task: AnyTask) -> None:
    assert tagged(task, "\0\x01", ["O", "O"])["spans"] == []


@pytest.mark.parametrize("unit", ["codepoint", "utf16", "byte"])
@pytest.mark.parametrize(
    "text",
    [f"{FAMILY} ada", "東京 ada", "cafe\u0301 ada", "\u0e19\u0e49\u0e33 ada", "שלום ada", "\U0001f44d\U0001f3fd ada"],
)
def test_offsets_in_every_unit(task: AnyTask, text: str, unit: str) -> None:
    words = prepare_one(task, text).source.words
    output = tagged(task, text, [*["O"] * (len(words) - 1), "B-per"], offset_unit=unit)
    (span,) = output["spans"]
    assert cut(text, span["start"], span["end"], unit) == span["text"] == "ada"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_every_span_is_the_text_between_its_offsets(make_task: MakeTask, text: str) -> None:
    task = make_task(task="token-classification", labels=LABELS, max_len=48)
    words = prepare_one(task, text).source.words
    for _, shown, start, end in spans(tagged(task, text, ["B-per"] * len(words))):
        assert text[start:end] == shown
        assert shown.strip()


def test_a_long_text_reads_every_word_where_it_has_most_context(make_task: MakeTask) -> None:
    task = make_task(task="token-classification", labels=LABELS, max_len=32, stride=10)
    value = {"tokens": ["cat"] * 100}
    one = prepare_one(task, value)
    assert [len(row) for row in one.rows] == [32, 32, 32, 32, 22]
    assert one.places[0] == (0, 1)
    assert one.places[24] == (0, 25), "5 tokens before the end of window 0, 4 after the start of window 1"
    assert one.places[25] == (1, 6)
    output = tagged(task, value, ["O"] * 98 + ["B-loc", "I-loc"])
    assert output["windows"] == 5
    assert [(span["word_start"], span["word_end"]) for span in output["spans"]] == [(98, 100)]


def test_overlong_rules(make_task: MakeTask) -> None:
    task = make_task(task="token-classification", labels=LABELS, max_len=12)
    value = {"tokens": ["cat"] * 11}
    assert len(prepare_one(task, value).rows) > 1
    with pytest.raises(InputTooLong, match=r"has 13 tokens.*takes 12"):
        prepare_one(task, value, overlong="error")
    cut = prepare_one(task, value, overlong="truncate")
    assert cut.truncated
    assert cut.rows[0].token_ids == (CLS, *[CAT] * 10, SEP)
    assert cut.places[9:] == ((0, 10), None)
    output = tagged(task, value, ["B-per"] * 11, overlong="truncate")
    assert output["tags"] == ["B-per"] * 10 + ["O"]
    assert output["truncated"]


def test_capacity_is_what_positions_are_left(make_task: MakeTask) -> None:
    task = make_task(task="token-classification", labels=LABELS, max_len=1000, prefix_len=50)
    assert task.max_tokens == MAX_POSITIONS - 50


def test_logits_are_per_word(task: AnyTask) -> None:
    output = tagged(task, {"tokens": ["catx", "\0"]}, ["B-per", "O"], logits=True)
    assert output["logits"] == [[0.0, 5.0, 0.0, 0.0, 0.0], None]
    assert output["logit_offsets"] == [[0, 4], [5, 6]]


def test_logits_of_a_text_say_where_their_words_stand(task: AnyTask) -> None:
    output = tagged(task, "é cat 京.", ["B-per", "O", "O", "O"], logits=True, offset_unit="byte")
    assert output["logit_offsets"] == [[0, 2], [3, 6], [7, 10], [10, 11]]
    assert len(output["logits"]) == 4
    assert tagged(task, "cat", ["O"])["logit_offsets"] is None


@pytest.mark.parametrize("name", ["top_k", "n_best", "threshold"])
def test_a_parameter_of_another_task_is_refused_with_the_allowed_ones(task: AnyTask, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}'.*allowed: logits, offset_unit, overlong"):
        task.prepare_many([], Parameters.model_validate({name: 1}))


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O O", []),
        ("B-x I-x O", [("x", 0, 2)]),
        ("B-x B-x", [("x", 0, 1), ("x", 1, 2)]),
        ("B-x I-y", [("x", 0, 1), ("y", 1, 2)]),
        ("O I-x I-x", [("x", 1, 3)]),
        ("I-x O I-x", [("x", 0, 1), ("x", 2, 3)]),
        ("B-x I-x", [("x", 0, 2)]),
        ("S-x O S-y", [("x", 0, 1), ("y", 2, 3)]),
        ("B-x I-x E-x O", [("x", 0, 3)]),
        ("B-x E-x B-x E-x", [("x", 0, 2), ("x", 2, 4)]),
        ("E-x E-x", [("x", 0, 1), ("x", 1, 2)]),
        ("B-x S-x", [("x", 0, 1), ("x", 1, 2)]),
        ("S-x I-x E-x", [("x", 0, 1), ("x", 1, 3)]),
        ("B-x E-y", [("x", 0, 1), ("y", 1, 2)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
    ],
)
def test_tags_are_joined_leniently(tags: str, wanted: list[tuple[str, int, int]]) -> None:
    assert join_tags(tags.split()) == [TaggedSpan(*one) for one in wanted]


@given(st.lists(st.sampled_from(["O", "B-x", "I-x", "E-x", "S-x", "B-y", "I-y", "E-y", "S-y"])))
def test_joined_spans_cover_exactly_the_words_that_are_not_outside(tags: list[str]) -> None:
    covered = [word for span in join_tags(tags) for word in range(span.start, span.end)]
    assert covered == [index for index, tag in enumerate(tags) if tag != "O"]
