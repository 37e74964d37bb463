"""Text classification: parse faults, rows, windows and decoding by hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from prefixrack.errors import EmptyInput, InputFault, InputTooLong, InvalidInput, InvalidRequest, InvalidUnicode
from prefixrack.types import Parameters
from prefixrack_adapters.tasks import TASKS, AnyTask, as_inputs
from tiny import MAX_POSITIONS, MakeTask, prepare_one, vocabulary

CLS, SEP, CAT, DOG = (vocabulary()[piece] for piece in ("[CLS]", "[SEP]", "cat", "dog"))


@pytest.fixture(scope="module")
def task(make_task: MakeTask) -> AnyTask:
    return make_task(labels=("no", "yes", "maybe"), max_len=12)


def finish(task: AnyTask, by_row: list[list[float]], value: object = "cat", **parameters: Any) -> dict[str, Any]:
    asked = Parameters(**parameters)
    one = prepare_one(task, value, **parameters)
    rows = [np.array(row, dtype=np.float32) for row in by_row]
    return task.finish(one, rows, asked).model_dump()


@pytest.mark.parametrize(
    ("value", "fault", "mentions"),
    [
        (None, InvalidInput, "null"),
        (3, InvalidInput, "a number"),
        (True, InvalidInput, "a boolean"),
        (["cat"], InvalidInput, "a list"),
        ({}, InvalidInput, r"lacks \['text'\]"),
        ({"text_pair": "cat"}, InvalidInput, r"lacks \['text'\]"),
        ({"text": "cat", "pair": "dog"}, InvalidInput, r"unknown fields \['pair'\]"),
        ({"text": 1}, InvalidInput, "text is a number"),
        ({"text": "cat", "text_pair": ["dog"]}, InvalidInput, "text_pair is a list"),
        ("", EmptyInput, "empty or blank"),
        (" \t\n\u3000", EmptyInput, "empty or blank"),
        ({"text": "cat", "text_pair": " "}, EmptyInput, "text_pair is empty"),
        ("cat \ud83d", InvalidUnicode, "at character 4"),
        ({"text": "\udc00"}, InvalidUnicode, "text has a lone surrogate at character 0"),
    ],
)
def test_faulty_inputs(task: AnyTask, value: object, fault: type[InputFault], mentions: str) -> None:
    with pytest.raises(fault, match=mentions) as caught:
        prepare_one(task, value)
    codes = {InvalidInput: "invalid_input", EmptyInput: "empty_input", InvalidUnicode: "invalid_unicode"}
    assert caught.value.code == codes[fault]


def test_a_faulty_input_leaves_the_others_alone(task: AnyTask) -> None:
    prepared = task.prepare_many(["cat", "", "cat " * 40, "dog"], Parameters())
    assert [type(one).__name__ for one in prepared] == ["Prepared", "EmptyInput", "InputTooLong", "Prepared"]
    last: Any = prepared[3]
    assert last.rows[0].token_ids == (CLS, DOG, SEP)


def test_only_faulty_inputs_need_no_tokenizer_call(task: AnyTask) -> None:
    assert [type(one) for one in task.prepare_many(["", 1], Parameters())] == [EmptyInput, InvalidInput]


def test_rows_of_a_text_and_a_pair(task: AnyTask) -> None:
    single = prepare_one(task, "cat")
    assert single.rows[0].token_ids == (CLS, CAT, SEP)
    assert single.rows[0].first_position == 4
    pair = prepare_one(task, {"text": "cat", "text_pair": "dog dog"})
    assert pair.rows[0].token_ids == (CLS, CAT, SEP, DOG, DOG, SEP)
    assert pair.rows[0].segment_ids == (0, 0, 0, 1, 1, 1)
    assert prepare_one(task, {"text": "cat", "text_pair": None}).rows == single.rows
    assert (pair.num_tokens, pair.truncated) == (6, False)


def test_adapters_trained_without_segments_get_none(make_task: MakeTask) -> None:
    pair = prepare_one(make_task(segments=False), {"text": "cat", "text_pair": "dog"})
    assert pair.rows[0].segment_ids == (0,) * 5


@pytest.mark.parametrize(("positions", "first"), [("after_prefix", 40), ("unmoved", 0)])
def test_capacity_is_what_positions_are_left(make_task: MakeTask, positions: str, first: int) -> None:
    task = make_task(prefix_len=40, positions=positions, max_len=1000)
    assert task.first_position == first
    assert task.max_tokens == MAX_POSITIONS - first
    fits = prepare_one(task, "cat " * (task.max_tokens - 2))
    assert fits.rows[0].first_position + len(fits.rows[0]) == MAX_POSITIONS
    with pytest.raises(InputTooLong, match=f"takes {task.max_tokens}"):
        prepare_one(task, "cat " * (task.max_tokens - 1))


def test_overlong_is_refused_by_default_with_the_way_out(task: AnyTask) -> None:
    with pytest.raises(InputTooLong, match=r'has 13 tokens.*takes 12.*"truncate" or "overlong": "window"') as caught:
        prepare_one(task, "cat " * 11)
    assert caught.value.code == "input_too_long"
    with pytest.raises(InputTooLong, match="has 14 tokens"):
        prepare_one(task, {"text": "cat " * 6, "text_pair": "dog " * 5})


def test_truncation_keeps_the_front_and_sets_the_flag(task: AnyTask) -> None:
    one = prepare_one(task, "cat " * 10 + "dog", overlong="truncate")
    assert one.rows[0].token_ids == (CLS, *[CAT] * 10, SEP)
    assert one.truncated
    assert not prepare_one(task, "cat " * 10, overlong="truncate").truncated


def test_truncation_of_a_pair_cuts_the_longer_side_first(task: AnyTask) -> None:
    one = prepare_one(task, {"text": "cat " * 20, "text_pair": "dog dog"}, overlong="truncate")
    assert one.rows[0].token_ids == (CLS, *[CAT] * 7, SEP, DOG, DOG, SEP)
    assert one.truncated


def test_the_manifest_says_what_happens_to_overlong_inputs(make_task: MakeTask) -> None:
    task = make_task(max_len=12, overlong="truncate")
    assert prepare_one(task, "cat " * 30).truncated
    with pytest.raises(InputTooLong):
        prepare_one(task, "cat " * 30, overlong="error")


def test_windows_overlap_by_the_stride_and_are_not_truncation(make_task: MakeTask) -> None:
    task = make_task(max_len=12, stride=4)
    one = prepare_one(task, "cat " * 15 + "dog", overlong="window")
    assert [len(row) for row in one.rows] == [12, 12]
    assert one.rows[1].token_ids == (CLS, *[CAT] * 9, DOG, SEP)
    assert not one.truncated


def test_windows_of_a_pair_keep_the_whole_first_text(make_task: MakeTask) -> None:
    task = make_task(max_len=12, stride=2)
    one = prepare_one(task, {"text": "cat cat", "text_pair": "dog " * 12}, overlong="window")
    assert all(row.token_ids[:4] == (CLS, CAT, CAT, SEP) for row in one.rows)
    assert [len(row) for row in one.rows] == [12, 12]
    with pytest.raises(InputTooLong):
        prepare_one(task, {"text": "cat " * 9, "text_pair": "dog " * 12}, overlong="window")


def test_scores_are_the_softmax_sorted(task: AnyTask) -> None:
    output = finish(task, [[1.0, 3.0, 2.0]])
    total = math.exp(1) + math.exp(2) + math.exp(3)
    wanted = [("yes", math.exp(3) / total), ("maybe", math.exp(2) / total), ("no", math.exp(1) / total)]
    assert [(one["label"], one["score"]) for one in output["scores"]] == [
        (label, pytest.approx(score)) for label, score in wanted
    ]
    assert (output["label"], output["score"]) == ("yes", output["scores"][0]["score"])
    assert (output["truncated"], output["windows"], output["logits"]) == (False, None, None)


def test_a_tie_keeps_the_order_of_the_manifest(task: AnyTask) -> None:
    assert finish(task, [[2.0, 2.0, 2.0]])["label"] == "no"


def test_huge_logits_neither_overflow_nor_warn(make_task: MakeTask, task: AnyTask) -> None:
    assert finish(task, [[3e38, -3e38, 0.0]])["score"] == 1.0
    several = make_task(labels=("a", "b"), decoding={"problem": "multi_label"})
    assert [one["score"] for one in finish(several, [[3e38, -3e38]])["scores"]] == [1.0, 0.0]


@pytest.mark.parametrize(("top_k", "kept"), [(1, ["yes"]), (2, ["yes", "maybe"]), (99, ["yes", "maybe", "no"])])
def test_top_k(task: AnyTask, top_k: int, kept: list[str]) -> None:
    assert [one["label"] for one in finish(task, [[1.0, 3.0, 2.0]], top_k=top_k)["scores"]] == kept


def test_windows_are_averaged_by_their_tokens(make_task: MakeTask) -> None:
    task = make_task(max_len=12, stride=0)
    value = "cat " * 14
    output = finish(task, [[1.0, 0.0], [0.0, 4.0]], value, overlong="window", logits=True)
    assert output["windows"] == 2
    assert output["logits"] == [pytest.approx(12 / 18), pytest.approx(4 * 6 / 18)]


def test_logits_come_when_asked_for(task: AnyTask) -> None:
    assert finish(task, [[1.0, 3.0, 2.0]], logits=True)["logits"] == [1.0, 3.0, 2.0]


def test_several_labels_over_the_threshold(make_task: MakeTask) -> None:
    task = make_task(labels=("a", "b", "c"), decoding={"problem": "multi_label", "threshold": 0.4})
    logits = [[0.0, 2.0, -1.0]]
    output = finish(task, logits)
    assert [(one["label"], one["score"]) for one in output["labels"]] == [
        ("b", pytest.approx(1 / (1 + math.exp(-2)))),
        ("a", pytest.approx(0.5)),
    ]
    assert [one["label"] for one in output["scores"]] == ["b", "a", "c"]
    assert finish(task, logits, threshold=0.9)["labels"] == []
    assert len(finish(task, logits, threshold=0.0)["labels"]) == 3
    narrow = finish(task, logits, top_k=1)
    assert (len(narrow["labels"]), len(narrow["scores"])) == (2, 1)


def test_regression_is_the_logit(make_task: MakeTask) -> None:
    task = make_task(decoding={"problem": "regression"})
    assert finish(task, [[3.25]])["value"] == 3.25


@pytest.mark.parametrize("name", ["offset_unit", "n_best", "max_answer_len", "null_threshold"])
def test_a_parameter_of_another_task_is_refused_with_the_allowed_ones(task: AnyTask, name: str) -> None:
    value: Any = "byte" if name == "offset_unit" else 1
    with pytest.raises(InvalidRequest, match=f"'{name}'.*allowed: logits, overlong, top_k$"):
        task.prepare_many(["cat"], Parameters(**{name: value}))


@pytest.mark.parametrize(
    ("problem", "name", "allowed"),
    [
        ("single_label", "threshold", "logits, overlong, top_k"),
        ("regression", "threshold", "logits, overlong"),
        ("regression", "top_k", "logits, overlong"),
    ],
)
def test_a_parameter_that_would_change_nothing_is_refused(
    make_task: MakeTask, problem: str, name: str, allowed: str
) -> None:
    task = make_task(decoding={"problem": problem})
    with pytest.raises(InvalidRequest, match=f"'{name}' means nothing to this adapter.*allowed: {allowed}$"):
        task.prepare_many(["cat"], Parameters.model_validate({name: 1}))


@pytest.mark.parametrize("bad", [{"top_k": 0}, {"threshold": 1.5}, {"overlong": "cut"}, {"topk": 1}])
def test_parameters_out_of_bounds_never_reach_a_task(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Parameters(**bad)


def test_control_characters_alone_make_a_row_of_special_tokens(task: AnyTask) -> None:
    assert prepare_one(task, "\0").rows[0].token_ids == (CLS, SEP)


def test_examples_are_accepted_by_their_own_task(make_task: MakeTask) -> None:
    for name in TASKS:
        task = make_task(task=name, labels=("O", "B-x"))
        assert prepare_one(task, task.example()).rows
        assert task.input_schema()


def test_a_list_is_many_inputs_anything_else_is_one() -> None:
    assert as_inputs(["a", "b"]) == ["a", "b"]
    assert as_inputs("a") == ["a"]
    assert as_inputs({"text": "a"}) == [{"text": "a"}]
