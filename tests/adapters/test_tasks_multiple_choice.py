from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from prefixrack.errors import EmptyInput, InputFault, InputTooLong, InvalidInput, InvalidRequest, InvalidUnicode
from prefixrack.types import Parameters
from prefixrack_adapters.tasks import AnyTask
from tiny import MAX_POSITIONS, MakeTask, prepare_one, vocabulary

CLS, SEP, CAT, DOG, MAT = (vocabulary()[piece] for piece in ("[CLS]", "[SEP]", "cat", "dog", "mat"))


@pytest.fixture(scope="module")
def task(make_task: MakeTask) -> AnyTask:
    return make_task(task="multiple-choice", max_len=12)


@pytest.mark.parametrize(
    ("value", "fault", "mentions"),
    [
        ("cat", InvalidInput, "a string; an object with text, choices"),
        ({"text": "cat"}, InvalidInput, r"lacks \['choices'\]"),
        ({"text": "cat", "choices": ["a", "b"], "x": 1}, InvalidInput, r"unknown fields \['x'\]"),
        ({"text": "cat", "choices": "ab"}, InvalidInput, "choices has a string"),
        ({"text": "cat", "choices": []}, InvalidInput, "choices has 0 entries; a list of 2 to 64"),
        ({"text": "cat", "choices": ["a"]}, InvalidInput, "choices has 1 entries"),
        ({"text": "cat", "choices": ["a"] * 65}, InvalidInput, "choices has 65 entries"),
        ({"text": "cat", "choices": ["a", 1]}, InvalidInput, r"choices\[1\] is a number"),
        ({"text": "cat", "choices": ["a", ""]}, EmptyInput, r"choices\[1\] is empty"),
        ({"text": "", "choices": ["a", "b"]}, EmptyInput, "text is empty"),
        ({"text": "cat", "choices": ["\ud800", "b"]}, InvalidUnicode, r"choices\[0\]"),
    ],
)
def test_faulty_inputs(task: AnyTask, value: object, fault: type[InputFault], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        prepare_one(task, value)


@pytest.mark.parametrize("count", [2, 3, 7, 64])
def test_every_choice_is_a_row(task: AnyTask, count: int) -> None:
    one = prepare_one(task, {"text": "cat", "choices": ["dog", "mat"] * (count // 2) + ["dog"] * (count % 2)})
    assert len(one.rows) == count
    assert one.rows[0].token_ids == (CLS, CAT, SEP, DOG, SEP)
    assert one.rows[1].token_ids == (CLS, CAT, SEP, MAT, SEP)
    assert one.rows[0].segment_ids == (0, 0, 0, 1, 1)


def test_inputs_with_different_numbers_of_choices_keep_their_own(task: AnyTask) -> None:
    values = [{"text": "cat", "choices": ["dog"] * count} for count in (2, 5, 3)]
    prepared: list[Any] = task.prepare_many(values, Parameters())
    assert [len(one.rows) for one in prepared] == [2, 5, 3]


def test_scores_are_the_softmax_over_the_choices(task: AnyTask) -> None:
    one = prepare_one(task, {"text": "cat", "choices": ["dog", "mat", "rain"]})
    logits = [np.array([value], dtype=np.float32) for value in (1.0, 0.0, 2.0)]
    output = task.finish(one, logits, Parameters(logits=True)).model_dump()
    total = math.exp(1) + 1 + math.exp(2)
    assert output["scores"] == [pytest.approx(value / total) for value in (math.exp(1), 1, math.exp(2))]
    assert output["choice"] == 2
    assert output["logits"] == [1.0, 0.0, 2.0]


def test_capacity_is_what_positions_are_left(make_task: MakeTask) -> None:
    assert make_task(task="multiple-choice", prefix_len=32, max_len=1000).max_tokens == MAX_POSITIONS - 32


def test_a_soft_prompt_takes_room_of_its_own(make_task: MakeTask) -> None:
    task = make_task(task="multiple-choice", prefix_len=32, max_len=1000, prompt="once")
    assert (task.first_position, task.max_tokens) == (0, MAX_POSITIONS - 32)


def test_one_overlong_choice_is_enough(task: AnyTask) -> None:
    value = {"text": "cat " * 5, "choices": ["dog", "dog " * 5]}
    with pytest.raises(InputTooLong, match=r'has 13 tokens.*takes 12.*"overlong": "truncate"$'):
        prepare_one(task, value)
    one = prepare_one(task, value, overlong="truncate")
    assert one.truncated
    assert one.rows[0].token_ids == (CLS, *[CAT] * 5, SEP, DOG, SEP)
    assert one.rows[1].token_ids == (CLS, *[CAT] * 4, SEP, *[DOG] * 5, SEP)


def test_windows_are_not_possible(task: AnyTask) -> None:
    with pytest.raises(InvalidRequest, match=r"'window' is not possible.*allowed: error, truncate"):
        task.prepare_many([], Parameters(overlong="window"))


@pytest.mark.parametrize("name", ["top_k", "n_best"])
def test_a_parameter_of_another_task_is_refused_with_the_allowed_ones(task: AnyTask, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}'.*allowed: logits, overlong"):
        task.prepare_many([], Parameters.model_validate({name: 1}))
