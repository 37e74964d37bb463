"""Question answering: windows over long contexts, n-best decoding and no answer, with crafted logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prefixrack.errors import EmptyInput, InputFault, InputTooLong, InvalidInput, InvalidRequest, InvalidUnicode
from prefixrack.types import Parameters
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, build_task
from prefixrack_adapters.tasks.base import Logits
from prefixrack_adapters.tasks.question_answering import PreparedContext, best_candidates
from prefixrack_adapters.tokenizer import TOKENIZER_FILE, BackboneTokenizer
from tiny import MAX_POSITIONS, MakeTask, cut, make_manifest, prepare_one, vocabulary

CLS, SEP, WHO, CAT, DOG = (vocabulary()[piece] for piece in ("[CLS]", "[SEP]", "who", "cat", "dog"))
SHORT = {"question": "who", "context": "ada sat in paris"}
FAMILY = "\U0001f468‍\U0001f469‍\U0001f467"


@pytest.fixture(scope="module")
def task(make_task: MakeTask) -> AnyTask:
    return make_task(task="question-answering", max_len=48)


@pytest.fixture(scope="module")
def null_task(make_task: MakeTask) -> AnyTask:
    return make_task(task="question-answering", decoding={"no_answer": True, "null_threshold": 1.0})


def answered(
    task: AnyTask,
    value: object,
    starts: Mapping[int, float],
    ends: Mapping[int, float],
    null: float = 0.0,
    **parameters: Any,
) -> dict[str, Any]:
    """The output where context token i has start logit starts[i] and end logit ends[i] in every window that has it."""
    asked = Parameters(**parameters)
    one = prepare_one(task, value, **parameters)
    logits = []
    for row, (first, last) in zip(one.rows, one.ranges, strict=True):
        values = np.full((len(row), 2), -10.0, dtype=np.float32)
        values[0] = null / 2
        for column, wanted in enumerate((starts, ends)):
            for token, height in wanted.items():
                if first <= token < last:
                    values[one.first + token - first, column] = height
        logits.append(values)
    return task.finish(one, logits, asked).model_dump()


@pytest.mark.parametrize(
    ("value", "fault", "mentions"),
    [
        ("who", InvalidInput, "a string; an object with question, context"),
        ({"question": "who"}, InvalidInput, r"the input lacks \['context'\]; fields"),
        ({"context": "cat"}, InvalidInput, r"lacks \['question'\]"),
        (SHORT | {"id": 1}, InvalidInput, r"unknown fields \['id'\]"),
        (SHORT | {"question": None}, InvalidInput, "question is null"),
        (SHORT | {"context": ["cat"]}, InvalidInput, "context is a list"),
        (SHORT | {"question": " "}, EmptyInput, "question is empty"),
        (SHORT | {"context": "\n"}, EmptyInput, "context is empty"),
        (SHORT | {"context": "a\ud800"}, InvalidUnicode, "context has a lone surrogate at character 1"),
    ],
)
def test_faulty_inputs(task: AnyTask, value: object, fault: type[InputFault], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        prepare_one(task, value)


def test_row_of_a_short_context(task: AnyTask) -> None:
    one = prepare_one(task, {"question": "  who", "context": "cat dog"})
    assert one.rows[0].token_ids == (CLS, WHO, SEP, CAT, DOG, SEP)
    assert one.rows[0].segment_ids == (0, 0, 0, 1, 1, 1)
    assert (one.first, one.ranges, one.truncated) == (3, ((0, 2),), False)


def test_the_answer_is_the_text_between_its_offsets(task: AnyTask) -> None:
    output = answered(task, SHORT, {3: 4.0}, {3: 4.0})
    answer = output["answer"]
    assert (answer["text"], answer["start"], answer["end"]) == ("paris", 11, 16)
    assert output["no_answer_score"] == 0.0
    assert output["windows"] is None


def test_a_context_of_3000_tokens_is_answered_from_the_right_window(task: AnyTask) -> None:
    words = ["cat"] * 3000
    words[2017:2019] = ["new", "paris"]
    context = " ".join(words)
    one = prepare_one(task, {"question": "who sat", "context": context})
    assert all(len(row) <= 48 for row in one.rows)
    tokens = [index for index, (start, _) in enumerate(one.offsets) if start == context.index("new")]
    last = next(index for index, (start, _) in enumerate(one.offsets) if start == context.index("paris"))
    output = answered(task, {"question": "who sat", "context": context}, {tokens[0]: 7.0}, {last: 7.0})
    answer = output["answer"]
    assert answer["text"] == "new paris" == context[answer["start"] : answer["end"]]
    assert answer["start"] == context.index("new")
    assert output["windows"] == len(one.rows) > 60


def test_scores_are_the_softmax_over_the_n_best_of_all_windows(task: AnyTask) -> None:
    output = answered(task, SHORT, {0: 2.0, 3: 1.0}, {1: 1.0, 3: 3.0}, n_best=2)
    texts = [(one["text"], one["score"]) for one in output["answers"]]
    first, second = math.exp(2.0 + 3.0), math.exp(1.0 + 3.0)
    assert texts == [
        ("ada sat in paris", pytest.approx(first / (first + second))),
        ("paris", pytest.approx(second / (first + second))),
    ]
    assert output["answer"] == output["answers"][0]


def test_n_best_bounds_the_answers(task: AnyTask) -> None:
    heights = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}
    assert len(answered(task, SHORT, heights, heights, n_best=3)["answers"]) == 3
    assert len(answered(task, SHORT, heights, heights, n_best=100)["answers"]) == 10


def test_max_answer_len_is_in_tokens(task: AnyTask) -> None:
    starts, ends = {0: 5.0, 2: 1.0}, {3: 5.0}
    assert answered(task, SHORT, starts, ends)["answer"]["text"] == "ada sat in paris"
    assert answered(task, SHORT, starts, ends, max_answer_len=3)["answer"]["text"] == "in paris"


def test_an_answer_never_ends_before_it_starts(task: AnyTask) -> None:
    output = answered(task, SHORT, {3: 9.0}, {0: 9.0}, n_best=1)
    assert (output["answer"], output["answers"]) == (None, [])


def test_one_span_seen_from_two_windows_counts_once_with_its_better_score(make_task: MakeTask) -> None:
    task = make_task(task="question-answering", max_len=24, stride=12)
    value = {"question": "who", "context": "cat " * 30}
    one = prepare_one(task, value)
    shared = [index for index, (start, end) in enumerate(one.ranges) if start <= 13 < end]
    assert len(shared) == 2
    output = answered(task, value, {13: 5.0}, {13: 5.0}, n_best=20)
    spans = [(answer["start"], answer["end"]) for answer in output["answers"]]
    assert len(spans) == len(set(spans))
    assert spans[0] == (52, 55)


def test_null_wins_when_it_beats_the_best_by_more_than_the_threshold(null_task: AnyTask) -> None:
    best = {3: 2.0}
    unanswered = answered(null_task, SHORT, best, best, null=5.1)
    assert unanswered["answer"] is None
    assert unanswered["answers"][0]["text"] == "paris"
    assert answered(null_task, SHORT, best, best, null=5.0)["answer"]["text"] == "paris"
    assert answered(null_task, SHORT, best, best, null=4.5, null_threshold=0.4)["answer"] is None
    assert answered(null_task, SHORT, best, best, null=30.0, null_threshold=100.0)["answer"]["text"] == "paris"


def test_null_takes_part_in_the_softmax(null_task: AnyTask) -> None:
    output = answered(null_task, SHORT, {3: 2.0}, {3: 2.0}, null=3.0, n_best=1)
    total = math.exp(4.0) + math.exp(3.0)
    assert output["no_answer_score"] == pytest.approx(math.exp(3.0) / total)
    assert output["answer"]["score"] == pytest.approx(math.exp(4.0) / total)


def test_the_null_score_is_the_smallest_of_all_windows(make_task: MakeTask) -> None:
    task = make_task(task="question-answering", max_len=24, decoding={"no_answer": True})
    one = prepare_one(task, {"question": "who", "context": "cat " * 30})
    logits = [np.zeros((len(row), 2), dtype=np.float32) for row in one.rows]
    for index, values in enumerate(logits):
        values[0] = 10.0 if index else -3.0
    assert task.finish(one, logits, Parameters()).model_dump()["answer"] is not None


def test_an_adapter_that_knows_no_null_always_answers(task: AnyTask) -> None:
    assert answered(task, SHORT, {3: 1.0}, {3: 1.0}, null=100.0)["answer"]["text"] == "paris"


@pytest.mark.parametrize("unit", ["codepoint", "utf16", "byte"])
def test_offsets_in_every_unit(task: AnyTask, unit: str) -> None:
    context = f"{FAMILY} 東京 cafe\u0301 paris"
    one = prepare_one(task, {"question": "who", "context": context})
    last = len(one.offsets) - 1
    output = answered(task, {"question": "who", "context": context}, {last: 5.0}, {last: 5.0}, offset_unit=unit)
    answer = output["answer"]
    assert cut(context, answer["start"], answer["end"], unit) == answer["text"] == "paris"


def test_an_answer_keeps_its_combining_marks(task: AnyTask) -> None:
    context = "cat cafe\u0301 dog"
    one = prepare_one(task, {"question": "who", "context": context})
    start = next(index for index, (left, _) in enumerate(one.offsets) if left == 4)
    end = next(index for index, (left, _) in enumerate(one.offsets) if left == 10) - 1
    assert answered(task, {"question": "who", "context": context}, {start: 5.0}, {end: 5.0})["answer"]["text"] == (
        "cafe\u0301"
    )


def test_nul_is_text_with_exact_offsets(task: AnyTask) -> None:
    context = "cat\0\0 paris"
    answer = answered(task, {"question": "who", "context": context}, {1: 5.0}, {1: 5.0})["answer"]
    assert context[answer["start"] : answer["end"]] == answer["text"] == "paris"


def test_a_context_without_any_token_has_no_answer(task: AnyTask, null_task: AnyTask) -> None:
    value = {"question": "who", "context": "\0"}
    assert answered(task, value, {}, {})["answer"] is None
    output = answered(null_task, value, {}, {})
    assert (output["answer"], output["no_answer_score"]) == (None, 1.0)


def test_spaces_that_a_tokenizer_counts_to_a_word_are_no_part_of_the_answer(spec: BackboneSpec, tmp_path: Any) -> None:
    pieces = [("<unk>", 0.0), ("▁", -9.0), ("▁who", -1.0), ("▁in", -1.0), ("▁paris", -1.0), ("</s>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 5)]
    )
    tokenizer.save(str(tmp_path / TOKENIZER_FILE))
    task = build_task(make_manifest(spec, task="question-answering"), spec, BackboneTokenizer.load(tmp_path))
    value = {"question": "who", "context": "in paris "}
    assert prepare_one(task, value).offsets[1] == (2, 8), "the tokenizer's own range has the space"
    answer = answered(task, value, {1: 5.0}, {1: 5.0})["answer"]
    assert (answer["text"], answer["start"], answer["end"]) == ("paris", 3, 8)
    assert answered(task, value, {2: 5.0}, {2: 5.0})["answer"]["text"] == ""


def test_overlong_rules(make_task: MakeTask) -> None:
    task = make_task(task="question-answering", max_len=24)
    value = {"question": "who", "context": "cat " * 30}
    assert len(prepare_one(task, value).rows) > 1
    with pytest.raises(InputTooLong, match=r"has 34 tokens.*takes 24"):
        prepare_one(task, value, overlong="error")
    cut = prepare_one(task, value, overlong="truncate")
    assert (len(cut.rows), cut.truncated, cut.ranges) == (1, True, ((0, 20),))


def test_a_question_that_leaves_no_room_is_refused(task: AnyTask) -> None:
    with pytest.raises(InputTooLong, match=r"question has 40 tokens and leaves 5 of 48.*at least 8"):
        prepare_one(task, {"question": "who " * 40, "context": "cat " * 20})
    assert prepare_one(task, {"question": "who " * 40, "context": "cat " * 5}).rows
    with pytest.raises(InputTooLong, match="leaves 0 of 48"):
        prepare_one(task, {"question": "who " * 100, "context": "cat"})


def test_capacity_is_what_positions_are_left(make_task: MakeTask) -> None:
    assert make_task(task="question-answering", max_len=1000, prefix_len=20).max_tokens == MAX_POSITIONS - 20


def test_logits_are_per_row(task: AnyTask) -> None:
    output = answered(task, SHORT, {3: 4.0}, {3: 4.0}, logits=True)
    assert np.array(output["logits"]).shape == (1, 8, 2)


def test_logits_of_every_window_say_where_their_tokens_stand(task: AnyTask) -> None:
    value = {"question": "who ?", "context": " ".join(f"cat{index % 7}" for index in range(60))}
    one = prepare_one(task, value)
    logits = [np.zeros((len(row), 2), dtype=np.float32) for row in one.rows]
    output = task.finish(one, logits, Parameters(logits=True)).model_dump()
    assert len(output["logit_offsets"]) == len(output["logits"]) == len(one.rows) > 1
    for offsets, of_window, (start, end) in zip(output["logit_offsets"], output["logits"], one.ranges, strict=True):
        assert len(offsets) == len(of_window)
        assert offsets[: one.first] == [None] * one.first
        assert offsets[-1] is None
        assert offsets[one.first : -1] == [list(place) for place in one.offsets[start:end]]


def by_double_loop(
    one: PreparedContext, logits: list[Logits], n_best: int, max_answer_len: int
) -> list[tuple[int, int, float]]:
    """The n best spans, every pair of a good start and a good end looked at in turn."""
    best: dict[tuple[int, int], float] = {}
    for (left, right), row in zip(one.ranges, logits, strict=True):
        context = row[one.first : one.first + right - left].astype(np.float64)
        starts = np.argsort(-context[:, 0], kind="stable")[:n_best]
        ends = np.argsort(-context[:, 1], kind="stable")[:n_best]
        for start in starts.tolist():
            for end in ends.tolist():
                if start <= end < start + max_answer_len:
                    key, score = (left + start, left + end), float(context[start, 0] + context[end, 1])
                    best[key] = max(score, best.get(key, score))
    ranked = sorted((-score, *key) for key, score in best.items())
    return [(start, end, -negative) for negative, start, end in ranked[:n_best]]


@settings(max_examples=60)
@given(
    num_words=st.integers(1, 90),
    n_best=st.integers(1, 30),
    max_answer_len=st.integers(1, 12),
    num_heights=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_candidates_equal_the_double_loop(
    task: AnyTask, num_words: int, n_best: int, max_answer_len: int, num_heights: int, seed: int
) -> None:
    """Few heights make many ties, within a window and between windows."""
    one = prepare_one(task, {"question": "who", "context": "cat " * num_words})
    generator = np.random.default_rng(seed)
    logits = [(generator.integers(0, num_heights, (len(row), 2)) / 7).astype(np.float32) for row in one.rows]
    found = best_candidates(one, logits, n_best, max_answer_len)
    wanted = by_double_loop(one, logits, n_best, max_answer_len)
    assert [(candidate.start, candidate.end, candidate.score) for candidate in found] == wanted


def test_a_null_threshold_needs_an_adapter_that_knows_null(task: AnyTask, null_task: AnyTask) -> None:
    asked = Parameters(null_threshold=1.0)
    assert null_task.prepare_many([SHORT], asked)
    with pytest.raises(InvalidRequest, match=r"'null_threshold' means nothing to this adapter.*n_best, offset_unit"):
        task.prepare_many([SHORT], asked)


@pytest.mark.parametrize("name", ["top_k", "threshold"])
def test_a_parameter_of_another_task_is_refused_with_the_allowed_ones(task: AnyTask, name: str) -> None:
    allowed = "logits, max_answer_len, n_best, offset_unit, overlong"
    with pytest.raises(InvalidRequest, match=f"'{name}'.*allowed: {allowed}"):
        task.prepare_many([], Parameters.model_validate({name: 1}))
