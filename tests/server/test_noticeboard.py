"""The noticeboard: what one front end writes the others see, in shared memory and in the registry's answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from prefixrack.errors import ServerOverloaded
from prefixrack_adapters.rows import Row
from prefixrack_server.dispatch import BoundRow, Dispatcher, Payer
from prefixrack_server.noticeboard import Noticeboard, make_noticeboard

BOUND = BoundRow(Row((1, 2, 3), (0, 0, 0), 0), None)
PAYER = Payer("alice")


class SilentEngine:
    def submit(self, work: object) -> None:
        """Nothing is ever answered."""

    def cancel(self, row_ids: object) -> None:
        """Nor has to be."""

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(tokens_per_s=0.0)


@pytest.fixture
def boards(tmp_path: Path) -> list[Noticeboard]:
    make_noticeboard(tmp_path / "board", 3)
    return [Noticeboard.open(tmp_path / "board", line) for line in range(3)]


def test_columns_are_added_up(boards: list[Noticeboard]) -> None:
    boards[0].post(2, 30)
    boards[2].post(3, 50)
    boards[0].post(1, 10)
    assert {(board.num_rows, board.num_tokens) for board in boards} == {(4, 60)}


def test_every_change_makes_another_number(boards: list[Noticeboard]) -> None:
    seen = [boards[1].num_changes]
    for board in (boards[0], boards[1], boards[2], boards[0]):
        board.note_change()
        seen.append(boards[1].num_changes)
    assert seen == sorted(set(seen))
    assert (boards[1].num_rows, boards[1].num_tokens) == (0, 0)


def test_each_beats_for_itself(boards: list[Noticeboard]) -> None:
    boards[1].beat()
    boards[1].beat()
    assert [boards[0].num_beats(line) for line in range(3)] == [0, 2, 0]


async def test_permits_are_the_servers(boards: list[Noticeboard]) -> None:
    first, second = (Dispatcher(SilentEngine(), 4, 100, board) for board in boards[:2])  # type: ignore[arg-type]
    ticket = first.submit([BOUND] * 3, PAYER)
    with pytest.raises(ServerOverloaded, match="3 rows with 9 tokens are waiting, allowed are 4 rows"):
        second.submit([BOUND] * 2, PAYER)
    second.submit([BOUND], PAYER)
    first.cancel(ticket)
    second.submit([BOUND] * 3, PAYER)
    with pytest.raises(ServerOverloaded):
        first.submit([BOUND], PAYER)


async def test_an_idle_front_end_of_a_busy_server_does_not_take_any_request(boards: list[Noticeboard]) -> None:
    first, second = (Dispatcher(SilentEngine(), 4, 100, board) for board in boards[:2])  # type: ignore[arg-type]
    first.submit([BOUND], PAYER)
    with pytest.raises(ServerOverloaded):
        second.submit([BOUND] * 50, PAYER)
