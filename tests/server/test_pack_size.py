"""The size of packs: what is chosen, with made-up rates and clocks; every family can be tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_machine import SPEC, FakeMachine
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families import FAMILIES
from prefixrack_server.engine_config import USUAL_PACK_TOKENS
from prefixrack_server.pack_size import ON_CPU, ON_GPU, PackRate, knee, measured_size, natural_rows, until_flat
from tiny import write_backbone

ROOM = 10_000


def rates_of(*tokens_per_s: float) -> list[PackRate]:
    return [PackRate(256 << index, rate) for index, rate in enumerate(tokens_per_s)]


@pytest.mark.parametrize(
    ("tokens_per_s", "size"),
    [
        ((100, 100, 100), 256),
        ((94, 100, 100), 512),
        ((95, 100, 100), 256),
        ((50, 80, 96, 100, 99), 1024),
        ((50, 100, 70), 512),  # packs that no cache holds are slower
        ((50, 60, 70), USUAL_PACK_TOKENS),  # it still rises
        ((50, 60, 70, 80, 90), 4096),
        ((100,), USUAL_PACK_TOKENS),
        ((), USUAL_PACK_TOKENS),
    ],
)
def test_the_smallest_size_that_is_close_to_the_best(tokens_per_s: Sequence[float], size: int) -> None:
    assert knee(rates_of(*tokens_per_s)) == size


def test_small_packs_are_computed_but_not_chosen() -> None:
    assert knee([PackRate(32, 100), PackRate(64, 100), PackRate(128, 100)]) == 256


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=8))
def test_what_is_chosen_is_nearly_as_fast_as_the_best(tokens_per_s: list[float]) -> None:
    by_size = dict(rates_of(*tokens_per_s))
    size = knee(rates_of(*tokens_per_s))
    assert size == USUAL_PACK_TOKENS or by_size[size] >= 0.95 * max(tokens_per_s)


@pytest.mark.parametrize(
    ("tokens_per_s", "num_tried"),
    [((50, 100, 100, 100, 100), 4), ((50, 100, 104, 120, 120, 120), 6), ((50, 100, 200), 3)],
)
def test_two_doublings_without_a_gain_are_enough(tokens_per_s: Sequence[float], num_tried: int) -> None:
    assert len(list(until_flat(iter(rates_of(*tokens_per_s))))) == num_tried


def size_of(machine: FakeMachine, max_rows: int = ROOM, goes_on: Callable[[], bool] = lambda: True) -> int:
    return measured_size(machine, max_rows, lambda: machine.now, goes_on)


def test_a_fixed_cost_for_each_pack_makes_packs_large_enough_to_hide_it() -> None:
    assert size_of(FakeMachine(lambda num_tokens: 0.00001 + num_tokens * 1e-5)) == 256
    assert size_of(FakeMachine(lambda num_tokens: 0.0005 + num_tokens * 1e-5)) == 1024
    # On a GPU packs are tried that are larger than any on a CPU.
    assert size_of(FakeMachine(lambda num_tokens: 0.004 + num_tokens * 1e-6, is_asynchronous=True)) == ON_GPU.ceiling


def test_on_a_gpu_every_size_that_packs_may_have_is_computed_before_the_first_request() -> None:
    """Passes are recorded when their size first comes: a request would wait for it, and those behind it."""
    machine = FakeMachine(lambda num_tokens: 0.004 + num_tokens * 1e-6, is_asynchronous=True)
    size = size_of(machine)
    assert {*(32 << power for power in range(6)), *range(1024, size + 1, 512)} <= set(machine.packs)


def test_what_would_be_recorded_last_is_left_for_later_where_it_takes_too_long() -> None:
    machine = FakeMachine(lambda num_tokens: 2.0 if num_tokens & (num_tokens - 1) else 0.004, is_asynchronous=True)
    assert size_of(machine) == ON_GPU.ceiling
    assert 1536 in machine.packs
    assert machine.now <= ON_GPU.limit_s + 2.0


@pytest.mark.parametrize("seconds_per_token", [1e-6, 1e-4, 1e-3, 1e-2])
def test_it_ends_in_time(seconds_per_token: float) -> None:
    """But for the first pack, which may be as slow as it is."""
    machine = FakeMachine(lambda num_tokens: 0.1 + num_tokens * seconds_per_token)
    size_of(machine)
    first_s = 5 * (0.1 + ON_CPU.first * seconds_per_token)
    assert machine.now <= max(ON_CPU.limit_s, first_s)


def test_a_slow_machine_has_packs_of_the_usual_size(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert size_of(FakeMachine(lambda num_tokens: num_tokens * 1e-2)) == USUAL_PACK_TOKENS
    assert "256: 100; packs have up to 2048 tokens" in caplog.text


def test_packs_keep_the_limit_on_rows() -> None:
    machine = FakeMachine(lambda num_tokens: 0.1 + num_tokens * 1e-6)
    size_of(machine, max_rows=len(natural_rows(512, SPEC)))
    assert set(machine.packs) == {256, 512}


def test_a_pack_that_cannot_be_computed_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    def seconds_of(num_tokens: int) -> float:
        if num_tokens > 512:
            raise MemoryError("out of memory")
        return 0.01 + num_tokens * 1e-6

    assert size_of(FakeMachine(seconds_of)) == USUAL_PACK_TOKENS
    assert "could not be computed" in caplog.text


def test_who_wants_to_stop_is_asked_before_each_pack() -> None:
    machine = FakeMachine(lambda num_tokens: 0.01)
    size_of(machine, goes_on=lambda: len(machine.packs) < 4)
    assert machine.packs == [256] * 4


@pytest.mark.parametrize("num_tokens", [1, 32, 256, 4096])
def test_rows_have_natural_lengths(num_tokens: int) -> None:
    lengths = [len(row) for row in natural_rows(num_tokens, SPEC)]
    assert sum(lengths) == num_tokens
    assert max(lengths) <= SPEC.max_positions
    if num_tokens == 4096:
        assert 22 <= np.mean(lengths) <= 32


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_can_be_tried(family: str, tmp_path: Path) -> None:
    backbone = Backbone.load(write_backbone(tmp_path, family))
    rows = natural_rows(64, backbone.spec)
    for row in rows:
        backbone.check(row)
    assert len(backbone.compute([PackRow(row, None) for row in rows])) == len(rows)
