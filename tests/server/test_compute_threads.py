"""How many threads compute: one core is left for HTTP where it is what callers wait for, and nowhere else."""

from __future__ import annotations

import logging

import pytest

from fake_machine import SPEC, FakeMachine
from prefixrack_server.compute_threads import FAR, NUM_RUNS, NUM_TOKENS, QUICK_ROW_S, chosen_threads
from prefixrack_server.pack_size import natural_rows

NUM_ROWS = len(natural_rows(NUM_TOKENS, SPEC))


def machine_of(row_s: float, is_asynchronous: bool = False) -> FakeMachine:
    """Whose rows take so long on one core."""
    return FakeMachine(lambda num_tokens: row_s * NUM_ROWS * num_tokens / NUM_TOKENS, is_asynchronous)


def threads_of(machine: FakeMachine, num_cores: int) -> int:
    return chosen_threads(machine, num_cores, lambda: machine.now)


@pytest.mark.parametrize(
    ("row_s", "num_cores", "chosen"),
    [
        pytest.param(0.5 * QUICK_ROW_S, 2, 1, id="quick"),
        pytest.param(1.5 * QUICK_ROW_S, 2, 2, id="not so quick on the one that would be left"),
        pytest.param(1.5 * QUICK_ROW_S, 3, 2, id="quick on two"),
        pytest.param(6.5 * QUICK_ROW_S, 8, 7, id="quick on seven"),
        pytest.param(7.5 * QUICK_ROW_S, 8, 8, id="not quick on seven"),
        pytest.param(0.0, 1, 1, id="there is but one"),
    ],
)
def test_a_core_is_left_for_http_where_the_others_compute_quickly(row_s: float, num_cores: int, chosen: int) -> None:
    assert threads_of(machine_of(row_s), num_cores) == chosen


def test_what_the_first_pack_compiles_does_not_count() -> None:
    machine = FakeMachine(lambda num_tokens: (0.1 if len(machine.packs) > 1 else FAR) * QUICK_ROW_S * NUM_ROWS)
    assert threads_of(machine, 2) == 1
    assert machine.packs == [NUM_TOKENS] * NUM_RUNS


def test_a_slow_machine_computes_one_pack_alone() -> None:
    machine = machine_of(2 * FAR * QUICK_ROW_S)
    assert threads_of(machine, 2) == 2
    assert len(machine.packs) == 1


def test_on_a_gpu_nothing_is_tried() -> None:
    machine = machine_of(1e-6, is_asynchronous=True)
    assert threads_of(machine, 16) == 16
    assert not machine.packs


def test_the_log_says_what_was_chosen_and_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        threads_of(machine_of(0.00025), 4)
    assert "a row takes 0.25 ms on one core: 3 of 4 compute" in caplog.text
