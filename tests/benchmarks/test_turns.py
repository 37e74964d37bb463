"""Turns: who runs when, what counts, and how rounds are compared."""

from __future__ import annotations

import pytest

from turns import Spread, Turns, take_turns


def test_everybody_runs_once_a_round_and_the_warm_up_does_not_count() -> None:
    calls: list[tuple[str, int]] = []

    def contestant(name: str) -> float:
        calls.append((name, len([one for one, _ in calls if one == name])))
        return float(calls[-1][1])

    turns = take_turns({"a": lambda _: contestant("a"), "b": lambda _: contestant("b")}, rounds=8, warm_ups=2)
    assert turns.seconds == {"a": [2, 3, 4, 5, 6, 7, 8, 9], "b": [2, 3, 4, 5, 6, 7, 8, 9]}
    firsts = {calls[2 * index][0] for index in range(10)}
    assert firsts == {"a", "b"}, "the order is drawn anew every round"


def test_contestants_know_the_number_of_the_round() -> None:
    seen: list[int] = []

    def contestant(index: int) -> float:
        seen.append(index)
        return 1.0

    take_turns({"one": contestant}, rounds=3, warm_ups=1)
    assert seen == [0, 1, 2, 3]


def test_ratios_are_taken_round_by_round() -> None:
    # the machine was ten times as slow in the second round, for both
    turns = Turns({"ours": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 2.0]})
    assert turns.speed("ours", "theirs") == Spread(2.0, 2.0, 2.0)
    assert turns.per_s("ours", 30).median == 30


def test_a_spread_has_the_quartiles() -> None:
    assert Spread.of([1, 2, 3, 4, 5]) == Spread(3, 2, 4)
    assert str(Spread(1.234, 1.0, 2.0)) == "1.23 (1.00 to 2.00)"


def test_a_single_round_is_its_own_spread() -> None:
    assert Spread.of([0.5]) == Spread(0.5, 0.5, 0.5)
    with pytest.raises(IndexError):
        Spread.of([])
