"""What a study tries, read from options: typed values, and refusals that name what is possible."""

from __future__ import annotations

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.plan import Plan, read_seeds, read_sweep, sweepable


def test_values_have_the_type_of_their_setting() -> None:
    sweep = read_sweep(["learning-rate=3e-3, 1e-2", "prefix_len=8,32", "method=p-tuning-v2,prompt-tuning"])
    assert sweep == {
        "learning_rate": [0.003, 0.01],
        "prefix_len": [8, 32],
        "method": ["p-tuning-v2", "prompt-tuning"],
    }
    assert [type(value) for value in sweep["prefix_len"]] == [int, int]
    assert read_sweep(["batch_tokens=500"]) == {"batch_tokens": [500]}
    assert read_seeds("13, 14") == [13, 14]


def test_numbers_and_choices_can_be_swept_and_nothing_else() -> None:
    names = sweepable()
    assert {"learning_rate", "prefix_len", "batch_tokens", "pooling", "method", "warmup"} <= set(names)
    assert not {"seed", "task", "name", "output", "labels", "prefix_layers", "columns", "trackers"} & set(names)


def test_all_combinations_in_the_order_given() -> None:
    plan = Plan({"prefix_len": [8, 4], "head": ["linear", "pooler"]}, [1, 2, 3])
    assert plan.num_runs == 12
    assert plan.combinations() == [
        {"prefix_len": 8, "head": "linear"},
        {"prefix_len": 8, "head": "pooler"},
        {"prefix_len": 4, "head": "linear"},
        {"prefix_len": 4, "head": "pooler"},
    ]
    assert Plan({}, [1]).combinations() == [{}]


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        (["learning=1"], "'learning' cannot be swept; method, prefix_len, "),
        (["seed=1,2"], "'seed' cannot be swept"),
        (["prefix_len"], "--sweep prefix_len: Input should be a valid integer"),
        (["prefix_len=4,-1"], "greater than or equal to 0; seen '-1'"),
        (["method=lora"], "Input should be 'p-tuning-v2', "),
        (["prefix_len=4,04"], "each setting, and each of its values, can be given once"),
        (["prefix_len=4", "prefix-len=8"], "each setting, and each of its values, can be given once"),
    ],
)
def test_a_bad_sweep_is_refused(options: list[str], mentions: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_sweep(options)
    assert mentions in caught.value.detail


@pytest.mark.parametrize("text", ["", "x", "1,,2", "-1", "1,1", "1.5", "4294967296"])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"--seeds {text}"):
        read_seeds(text)
