"""The scoreboard: bounded, stable, shared, and no count lost or counted twice."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from prefixrack_server.scoreboard import MAX_CHANGES, Key, Scoreboard, make_scoreboard

NUM_KEYS = 3


def count(board: Scoreboard, key: Key, times: int = 1) -> None:
    for _ in range(times):
        board.cells[board.place(key, 1)] += 1


def scores(board: Scoreboard) -> dict[Key | None, int]:
    return {score.key: score.counts[0] for score in board.scores()}


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard.alone(NUM_KEYS, 1)


def full(board: Scoreboard, heat: int = 10) -> Scoreboard:
    for name in "abc":
        count(board, (name,), heat)
    return board


def test_the_first_keys_have_slots_and_later_ones_are_the_others(board: Scoreboard) -> None:
    full(board)
    for number in range(1000):
        count(board, (f"late-{number}",))
    assert scores(board) == {None: 1000, ("a",): 10, ("b",): 10, ("c",): 10}


def test_a_busier_key_takes_the_coldest_slot_and_no_sum_falls(board: Scoreboard) -> None:
    full(board)
    count(board, ("b",), 30)
    count(board, ("c",), 30)
    count(board, ("late",), 21)
    board.turn()
    count(board, ("late",), 4)
    count(board, ("a",), 2)
    assert scores(board) == {None: 23, ("late",): 4, ("b",): 40, ("c",): 40}


def test_a_key_that_is_hardly_busier_takes_nothing(board: Scoreboard) -> None:
    full(board)
    count(board, ("late",), 20)
    board.turn()
    assert ("late",) not in scores(board)


def test_two_equally_busy_keys_do_not_take_turns(board: Scoreboard) -> None:
    seen = set()
    for _ in range(20):
        for name in ("a", "b", "c", "d"):
            count(board, (name,), 100)
        board.turn()
        seen.add(frozenset(scores(board)))
    assert len(seen) == 1


def test_a_turn_changes_little() -> None:
    board = Scoreboard.alone(20, 1)
    for number in range(20):
        count(board, (f"old-{number}",))
    for number in range(20):
        count(board, (f"new-{number}",), 100)
    board.turn()
    assert sum(key is not None and key[0].startswith("new") for key in scores(board)) == MAX_CHANGES


def test_who_was_busy_long_ago_gives_way(board: Scoreboard) -> None:
    full(board, heat=1000)
    for _ in range(12):
        count(board, ("late",), 50)
        board.turn()
    assert ("late",) in scores(board)


def test_memory_does_not_grow_with_keys_that_came_once(board: Scoreboard) -> None:
    full(board)
    for number in range(1000):
        count(board, (f"once-{number}",))
    board.turn()
    assert not board._unplaced


def test_a_key_that_is_too_long_for_a_slot_is_one_of_the_others(board: Scoreboard) -> None:
    count(board, ("x" * 300,), 5)
    board.turn()
    assert scores(board) == {None: 5}


@pytest.fixture
def shared(tmp_path: Path) -> list[Scoreboard]:
    """The boards of two front ends."""
    path = tmp_path / "board"
    make_scoreboard(path, NUM_KEYS, 1, num_lines=2)
    return [Scoreboard.open(path, NUM_KEYS, 1, line) for line in range(2)]


def test_front_ends_agree_on_slots_and_add_up(shared: list[Scoreboard]) -> None:
    one, other = shared
    count(one, ("a",), 2)
    count(other, ("b",), 3)
    count(other, ("a",), 5)
    count(one, ("b",), 7)
    assert scores(one) == scores(other) == {None: 0, ("a",): 7, ("b",): 10}


def test_a_slot_that_one_front_end_gives_away_counts_for_its_new_key_with_the_other(shared: list[Scoreboard]) -> None:
    one, other = shared
    full(one)
    count(other, ("a",), 3)
    count(other, ("b",), 50)
    count(other, ("c",), 50)
    count(one, ("late",), 40)
    one.turn()
    count(other, ("late",), 6)
    count(other, ("a",), 1)
    assert scores(one) == scores(other) == {None: 41, ("late",): 6, ("b",): 60, ("c",): 60}


def test_busy_with_the_other_front_end_is_busy(shared: list[Scoreboard]) -> None:
    one, other = shared
    full(one)
    for name in "abc":
        count(other, (name,), 100)
    count(one, ("late",), 40)
    one.turn()
    assert ("late",) not in scores(one)


def test_a_front_end_in_the_place_of_a_dead_one_goes_on(shared: list[Scoreboard], tmp_path: Path) -> None:
    count(shared[1], ("a",), 2)
    count(Scoreboard.open(tmp_path / "board", NUM_KEYS, 1, 1), ("a",), 3)
    assert scores(shared[0])[("a",)] == 5


def churn(path: Path, line: int, num_rounds: int) -> None:
    board = Scoreboard.open(path, NUM_KEYS, 1, line)
    for number in range(num_rounds):
        count(board, (f"key-{(number + line) % 5}",))


def test_several_processes_claim_slots_at_once(shared: list[Scoreboard], tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=churn, args=(tmp_path / "board", line, 500)) for line in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = scores(shared[0])
    assert len(found) == NUM_KEYS + 1
    assert sum(found.values()) == 1000


def test_a_released_key_gives_its_slot_to_the_next_and_begins_anew(board: Scoreboard) -> None:
    full(board)
    board.release([("a",), ("nobody",)])
    assert scores(board) == {None: 0, ("b",): 10, ("c",): 10}
    count(board, ("late",))
    count(board, ("a",))
    assert scores(board) == {None: 1, ("late",): 1, ("b",): 10, ("c",): 10}
    board.release([("late",)])
    count(board, ("a",))
    assert scores(board) == {None: 1, ("a",): 1, ("b",): 10, ("c",): 10}


def test_front_ends_see_what_another_has_released(tmp_path: Path) -> None:
    path = tmp_path / "board"
    make_scoreboard(path, NUM_KEYS, 1, 2)
    first, second = (Scoreboard.open(path, NUM_KEYS, 1, line) for line in range(2))
    count(first, ("a",), 2)
    count(second, ("a",), 3)
    first.release([("a",)])
    assert scores(second) == {None: 0}
    count(second, ("a",))
    assert scores(first) == {None: 0, ("a",): 1}
