"""Front ends and an engine over a real socket: each gets its own answers, and one answer a row, whatever ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixrack.errors import NotReady
from prefixrack_adapters.rows import Row
from prefixrack_server import engine_server
from prefixrack_server.engine_client import EngineClient
from prefixrack_server.engine_server import EngineServer
from prefixrack_server.messages import BundleRef, EngineStats, ResidencyState, RowDone, RowWork

Until = Callable[[Callable[[], bool]], Awaitable[None]]

BUNDLE = BundleRef("d" * 64, "a" * 64, "b" * 64)
OTHER = BundleRef("e" * 64, "a" * 64, "c" * 64)


class HandEngine:
    """Answers when the test says so, in a thread that is not the loop's."""

    def __init__(self) -> None:
        self.work: list[RowWork] = []
        self.cancelled: list[int] = []
        self.kept: list[tuple[BundleRef, bool]] = []
        self.forgotten: list[str] = []
        self.heartbeat = 1.0

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        self.deliver = deliver

    def submit(self, work: Sequence[RowWork]) -> None:
        self.work.extend(work)

    def cancel(self, row_ids: Sequence[int]) -> None:
        self.cancelled.extend(row_ids)

    def keep_resident(self, bundle: BundleRef, keep: bool) -> None:
        self.kept.append((bundle, keep))

    def forget(self, digest: str) -> None:
        self.forgotten.append(digest)

    async def residency(self, digest: str) -> ResidencyState:
        return "resident" if digest == BUNDLE.digest else "absent"

    def stats(self) -> EngineStats:
        return EngineStats(True, self.heartbeat, len(self.work), *(0,) * 13)

    async def answer(self, *answers: RowDone) -> None:
        await asyncio.to_thread(self.deliver, answers)


@dataclass
class FrontEnd:
    """A client, and what was delivered to it."""

    client: EngineClient
    answers: list[RowDone] = field(default_factory=list)

    def start(self) -> None:
        self.client.start(self.answers.extend)

    @property
    def codes(self) -> dict[int, str | None]:
        return {answer.row_id: answer.failure.code if answer.failure else None for answer in self.answers}


@dataclass
class Bench:
    """A listening engine, and the front ends that were connected to it."""

    engine: HandEngine
    server: EngineServer
    path: Path
    front_ends: list[FrontEnd] = field(default_factory=list)

    async def front_end(self, drain_timeout_s: float = 60.0) -> FrontEnd:
        front_end = FrontEnd(await EngineClient.connect(self.path, drain_timeout_s))
        front_end.start()
        self.front_ends.append(front_end)
        return front_end

    def cut_off(self) -> None:
        """End all connections as the end of the engine's process does."""
        for connection in self.server._connections.values():
            connection._writer.transport.abort()


@pytest.fixture
async def bench(tmp_path: Path, until: Until) -> AsyncIterator[Bench]:
    engine = HandEngine()
    server = EngineServer(engine)  # type: ignore[arg-type]
    async with server.listening(tmp_path / "engine.sock"):
        bench = Bench(engine, server, tmp_path / "engine.sock")
        yield bench
        for front_end in bench.front_ends:
            front_end.client.hurry()
            await asyncio.to_thread(front_end.client.stop)
        await until(lambda: not server._connections)


def work(*row_ids: int, **changes: Any) -> list[RowWork]:
    return [RowWork(row_id, Row((1, row_id), (0, 0), 3), BUNDLE, **changes) for row_id in row_ids]


async def test_equal_row_ids_of_two_front_ends_are_two_rows(bench: Bench, until: Until) -> None:
    front_ends = [await bench.front_end() for _ in range(2)]
    for index, front_end in enumerate(front_ends):
        front_end.client.submit(work(0, 1, deadline=12.5, priority=index))
    await until(lambda: len(bench.engine.work) == 4)
    assert len({row_work.row_id for row_work in bench.engine.work}) == 4
    logits = {row_work.row_id: np.full((2, 3), place) for place, row_work in enumerate(bench.engine.work)}
    await bench.engine.answer(*(RowDone(row_id, values.astype(np.float32)) for row_id, values in logits.items()))
    await until(lambda: all(len(front_end.answers) == 2 for front_end in front_ends))
    for index, front_end in enumerate(front_ends):
        places = [place for place, row_work in enumerate(bench.engine.work) if row_work.priority == index]
        assert [answer.row_id for answer in front_end.answers] == [0, 1]
        for answer, place in zip(front_end.answers, places, strict=True):
            assert answer.logits is not None
            np.testing.assert_array_equal(answer.logits, np.full((2, 3), place, np.float32))


async def test_a_row_arrives_as_it_was_sent(bench: Bench, until: Until) -> None:
    row = Row((5, 6), (0, 1), 7, ((0, 1), (2, 3)), 1)
    sent = RowWork(0, row, None, deadline=12.5, priority=10)
    (await bench.front_end()).client.submit([sent])
    await until(lambda: bool(bench.engine.work))
    assert bench.engine.work == [sent]


async def test_large_logits_arrive_whole(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    front_end.client.submit(work(0))
    await until(lambda: bool(bench.engine.work))
    logits = np.random.default_rng(0).normal(size=(768, 2048)).astype(np.float32).T  # its bytes are not in order
    await bench.engine.answer(RowDone(0, logits, None, 1.5, 2.5))
    await until(lambda: bool(front_end.answers))
    (answer,) = front_end.answers
    assert (answer.queue_ms, answer.compute_ms, answer.failure) == (1.5, 2.5, None)
    np.testing.assert_array_equal(np.asarray(answer.logits), logits)


async def test_cancelled_rows_are_cancelled_and_nobody_elses(bench: Bench, until: Until) -> None:
    first, second = await bench.front_end(), await bench.front_end()
    first.client.submit(work(0, 1))
    second.client.submit(work(0, 1))
    await until(lambda: len(bench.engine.work) == 4)
    second.client.cancel([1])
    await until(lambda: bool(bench.engine.cancelled))
    assert bench.engine.cancelled == [bench.engine.work[3].row_id]


async def test_rows_of_a_front_end_that_went_are_cancelled(bench: Bench, until: Until) -> None:
    front_end, stays = await bench.front_end(), await bench.front_end()
    front_end.client.submit(work(0, 1, 2))
    await until(lambda: len(bench.engine.work) == 3)
    await bench.engine.answer(RowDone(bench.engine.work[1].row_id))
    front_end.client._writer.transport.abort()
    await until(lambda: len(bench.engine.cancelled) == 2)
    assert bench.engine.cancelled == [bench.engine.work[0].row_id, bench.engine.work[2].row_id]
    again = await bench.front_end()
    again.client.submit(work(0))
    await until(lambda: len(bench.engine.work) == 4)
    await bench.engine.answer(*(RowDone(row_work.row_id) for row_work in bench.engine.work))
    await until(lambda: bool(again.answers))
    assert (again.codes, stays.codes) == ({0: None}, {})


async def test_stats_come_by_themselves(bench: Bench, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = await bench.front_end()
    assert front_end.client.stats() == bench.engine.stats()
    monkeypatch.setattr(engine_server, "PULSE_S", 0.001)
    bench.engine.heartbeat = 7.0
    await until(lambda: front_end.client.stats().heartbeat == 7.0)


async def test_answers_bring_the_stats_of_their_moment(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    front_end.client.submit(work(0))
    await until(lambda: bool(bench.engine.work))
    await bench.engine.answer(RowDone(0))
    await until(lambda: bool(front_end.answers))
    assert front_end.client.stats().num_queued_rows == 1


async def test_residency_is_asked_for(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    digests = [BUNDLE.digest, OTHER.digest, BUNDLE.digest]
    states = await asyncio.gather(*(front_end.client.residency(digest) for digest in digests))
    assert states == ["resident", "absent", "resident"]
    front_end.client.forget("f")
    await until(lambda: bench.engine.forgotten == ["f"])


async def test_what_is_kept_stays_as_long_as_one_front_end_wants_it(bench: Bench, until: Until) -> None:
    first, second = await bench.front_end(), await bench.front_end()
    for front_end in (first, second):
        front_end.client.keep_resident(BUNDLE, True)
    second.client.keep_resident(OTHER, True)
    await until(lambda: len(bench.engine.kept) == 3)
    first.client.keep_resident(BUNDLE, False)
    await first.client.residency(BUNDLE.digest)
    assert (BUNDLE, False) not in bench.engine.kept
    second.client._writer.transport.abort()
    await until(lambda: len(bench.engine.kept) == 5)
    assert set(bench.engine.kept[3:]) == {(BUNDLE, False), (OTHER, False)}


async def test_when_the_engine_ends_every_row_is_told(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    front_end.client.submit(work(0, 1))
    await until(lambda: len(bench.engine.work) == 2)
    bench.cut_off()
    question = asyncio.create_task(front_end.client.residency("d"))
    await until(lambda: len(front_end.answers) == 2)
    assert front_end.codes == {0: "not_ready", 1: "not_ready"}
    front_end.client.submit(work(2))
    assert front_end.codes[2] == "not_ready"
    front_end.client.cancel([2])
    stats = front_end.client.stats()
    assert not stats.ready
    assert time.monotonic() - stats.heartbeat == float("inf")
    with pytest.raises(NotReady, match="has ended"):
        await question
    with pytest.raises(NotReady, match="has ended"):
        await front_end.client.residency("d")


async def test_stop_waits_for_what_is_owed(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    front_end.client.submit(work(0, 1))
    await until(lambda: len(bench.engine.work) == 2)
    stopping = asyncio.create_task(asyncio.to_thread(front_end.client.stop))
    await until(lambda: front_end.client._refusal is not None)
    front_end.client.submit(work(2))
    assert front_end.codes == {2: "not_ready"}
    await bench.engine.answer(RowDone(0))
    await until(lambda: 0 in front_end.codes)
    assert not stopping.done()
    await bench.engine.answer(RowDone(1))
    await stopping
    assert front_end.codes == {0: None, 1: None, 2: "not_ready"}


@pytest.mark.parametrize("hurries", [True, False])
async def test_stop_gives_up_what_takes_too_long(bench: Bench, until: Until, hurries: bool) -> None:
    front_end = await bench.front_end(drain_timeout_s=60.0 if hurries else 0.01)
    front_end.client.submit(work(0))
    await until(lambda: len(bench.engine.work) == 1)
    if hurries:
        front_end.client.hurry()
    await asyncio.to_thread(front_end.client.stop)
    assert front_end.codes == {0: "not_ready"}
    await until(lambda: bench.engine.cancelled == [0])


async def test_what_is_no_message_ends_that_connection_alone(bench: Bench, until: Until) -> None:
    front_end = await bench.front_end()
    reader, writer = await asyncio.open_unix_connection(bench.path)
    writer.write(b"\x00\x00\x00\x03GET")
    while await reader.read(1000):
        pass  # the pulse that everybody gets first
    writer.close()
    front_end.client.submit(work(0))
    await until(lambda: len(bench.engine.work) == 1)


async def test_no_engine_there(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no engine listens"):
        await EngineClient.connect(tmp_path / "nothing.sock", 1.0)
