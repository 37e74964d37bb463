"""The dispatcher: exactly one answer per submission, permits given back, callers who leave."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from prefixrack.errors import DeadlineExceeded, NotReady, ServerOverloaded
from prefixrack_adapters.rows import Row
from prefixrack_server.dispatch import CALLERS_PER_LOOK, LOOKS_PER_POLL, BoundRow, Dispatcher, Payer
from prefixrack_server.messages import RowDone, RowWork
from prefixrack_server.noticeboard import Noticeboard

BOUND = BoundRow(Row((1, 2, 3), (0, 0, 0), 0), None)
PAYER = Payer("alice", 2.0)


class HandEngine:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.work: list[RowWork] = []
        self.num_calls = 0
        self.cancelled: list[int] = []
        self.tokens_per_s = 0.0

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        self.deliver = deliver

    def submit(self, work: Sequence[RowWork]) -> None:
        self.work.extend(work)
        self.num_calls += 1

    def cancel(self, row_ids: Sequence[int]) -> None:
        self.cancelled.extend(row_ids)

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(tokens_per_s=self.tokens_per_s)

    def stop(self) -> None:
        """Leaves everything unanswered."""

    def answer(self, *row_ids: int) -> None:
        self.deliver([RowDone(row_id) for row_id in row_ids])


@pytest.fixture
async def engine() -> HandEngine:
    return HandEngine()


@pytest.fixture
async def dispatcher(engine: HandEngine) -> Dispatcher:
    dispatcher = Dispatcher(engine, 4, 100, Noticeboard.alone())  # type: ignore[arg-type]
    dispatcher.start()
    return dispatcher


async def test_answers_come_in_the_order_of_the_rows(engine: HandEngine, dispatcher: Dispatcher) -> None:
    first, second = dispatcher.submit([BOUND] * 2, PAYER), dispatcher.submit([BOUND] * 2, PAYER)
    assert (dispatcher.num_rows, dispatcher.num_tokens) == (4, 12)
    engine.answer(3, 1, 0)
    assert [answer.row_id for answer in await dispatcher.wait(first)] == [0, 1]
    assert not second.is_done
    engine.answer(2)
    assert [answer.row_id for answer in await dispatcher.wait(second)] == [2, 3]
    assert (dispatcher.num_rows, dispatcher.num_tokens, engine.cancelled) == (0, 0, [])


async def test_rows_are_their_payers(engine: HandEngine, dispatcher: Dispatcher) -> None:
    dispatcher.submit([BOUND] * 2, PAYER)
    await asyncio.sleep(0)
    assert {(row.tenant, row.weight) for row in engine.work} == {("alice", 2.0)}


async def test_no_rows_need_no_answer(engine: HandEngine, dispatcher: Dispatcher) -> None:
    assert await dispatcher.wait(dispatcher.submit([], PAYER)) == []
    assert engine.work == []


async def test_what_comes_in_together_goes_to_the_engine_together(engine: HandEngine, dispatcher: Dispatcher) -> None:
    tickets = [dispatcher.submit([BOUND], PAYER, priority=priority) for priority in (3, 1, 2)]
    dispatcher.cancel(tickets[1])
    assert engine.work == []
    await asyncio.sleep(0)
    assert [(row_work.row_id, row_work.priority) for row_work in engine.work] == [(0, 3), (2, 2)]
    dispatcher.submit([BOUND], PAYER)
    await asyncio.sleep(0)
    assert ([row_work.row_id for row_work in engine.work], engine.num_calls) == ([0, 2, 3], 2)


async def test_what_was_just_taken_is_sent_before_the_engine_stops(engine: HandEngine, dispatcher: Dispatcher) -> None:
    dispatcher.submit([BOUND], PAYER)
    await dispatcher.stop()
    assert len(engine.work) == 1


async def test_permits(engine: HandEngine, dispatcher: Dispatcher) -> None:
    ticket = dispatcher.submit([BOUND] * 3, PAYER)
    with pytest.raises(ServerOverloaded):
        dispatcher.submit([BOUND] * 2, PAYER)
    dispatcher.submit([BOUND], PAYER)
    engine.answer(*ticket.row_ids)
    await dispatcher.wait(ticket)
    dispatcher.submit([BOUND] * 2, PAYER)


async def test_an_idle_server_takes_any_request(dispatcher: Dispatcher) -> None:
    assert len(dispatcher.submit([BOUND] * 50, PAYER).answers) == 50


async def test_tokens_are_counted_too(engine: HandEngine, dispatcher: Dispatcher) -> None:
    long = BoundRow(Row((1,) * 60, (0,) * 60, 0), None)
    dispatcher.submit([long], PAYER)
    with pytest.raises(ServerOverloaded, match="60 tokens") as unknown:
        dispatcher.submit([long], PAYER)
    engine.tokens_per_s = 5.0
    with pytest.raises(ServerOverloaded) as known:
        dispatcher.submit([long], PAYER)
    assert (unknown.value.retry_after_s, known.value.retry_after_s) == (1.0, 4.0)  # 20 tokens too many


async def test_the_deadline_ends_the_wait(engine: HandEngine, dispatcher: Dispatcher) -> None:
    ticket = dispatcher.submit([BOUND], PAYER, deadline=time.monotonic() + 0.01)
    with pytest.raises(DeadlineExceeded):
        await dispatcher.wait(ticket)
    assert (engine.cancelled, dispatcher.num_rows, dispatcher.num_tokens) == ([0], 0, 0)


async def test_late_answers_are_dropped(engine: HandEngine, dispatcher: Dispatcher) -> None:
    ticket = dispatcher.submit([BOUND] * 2, PAYER)
    dispatcher.cancel(ticket)
    engine.answer(0, 1)
    await asyncio.sleep(0)
    assert (dispatcher.num_rows, dispatcher.num_tokens) == (0, 0)
    dispatcher.cancel(ticket)
    assert engine.cancelled == [0, 1]


async def test_a_cancelled_caller_cancels_what_is_missing(engine: HandEngine, dispatcher: Dispatcher) -> None:
    ticket = dispatcher.submit([BOUND] * 2, PAYER)
    waiting = asyncio.create_task(dispatcher.wait(ticket))
    await asyncio.sleep(0)
    engine.answer(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert (engine.cancelled, dispatcher.num_rows, dispatcher.num_tokens) == ([1], 0, 0)


async def test_a_caller_that_left_is_noticed(engine: HandEngine, dispatcher: Dispatcher) -> None:
    async def gone() -> bool:
        return True

    with pytest.raises(ClientDisconnect):
        await dispatcher.wait(dispatcher.submit([BOUND], PAYER), gone)
    assert engine.cancelled == [0]


async def test_of_thousands_that_wait_few_are_looked_at_at_once(engine: HandEngine) -> None:
    num_waiting = 10 * CALLERS_PER_LOOK
    dispatcher = Dispatcher(engine, num_waiting, 100 * num_waiting, Noticeboard.alone())  # type: ignore[arg-type]
    dispatcher.start()
    looked_at: Counter[int] = Counter()

    def caller(number: int) -> Any:
        async def is_gone() -> bool:
            looked_at[number] += 1
            return False

        return is_gone

    tickets = [dispatcher.submit([BOUND], PAYER) for _ in range(num_waiting)]
    waiting = [asyncio.create_task(dispatcher.wait(ticket, caller(turn))) for turn, ticket in enumerate(tickets)]
    await asyncio.sleep(0)
    for _ in range(LOOKS_PER_POLL - 1):
        dispatcher._look_around()
    for num_looks in range(1, 11):
        dispatcher._look_around()
        for _ in range(3):
            await asyncio.sleep(0)
        assert looked_at.total() == num_looks * CALLERS_PER_LOOK
    assert set(looked_at.values()) == {1}
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_stop_answers_what_the_engine_left(engine: HandEngine, dispatcher: Dispatcher) -> None:
    waiting: Any = asyncio.create_task(dispatcher.wait(dispatcher.submit([BOUND], PAYER)))
    await asyncio.sleep(0)
    await dispatcher.stop()
    with pytest.raises(NotReady):
        await waiting
