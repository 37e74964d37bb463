"""The engine as a front end sees it, where it runs in a process of its own: `messages.Engine` over a socket."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from prefixrack.errors import NotReady
from prefixrack_server import engine_wire as wire
from prefixrack_server.messages import STOPPING, BundleRef, EngineStats, ResidencyState, RowDone, RowFailure, RowWork

ENDED: Final = RowFailure(
    NotReady.code, "the engine's process has ended: send the request to another replica or a moment later"
)

log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[RowDone]], None]


class EngineClient:
    """Lives as long as the front end. All methods but `stop` belong to the event loop's thread.

    Every row gets its answer: from the engine, or, when the connection ends, a failure that says so.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stats: EngineStats, drain_timeout_s: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._stats = stats
        self._drain_timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self._row_ids: set[int] = set()  # submitted, neither answered nor cancelled
        self._questions: dict[int, asyncio.Future[ResidencyState]] = {}
        self._numbers = itertools.count()
        self._refusal: RowFailure | None = None  # why no more rows are taken
        self._is_settled = asyncio.Event()  # nothing is owed any more, or nobody wants to wait for it
        self._is_hurried = False

    @classmethod
    async def connect(cls, path: Path, drain_timeout_s: float) -> EngineClient:
        """Raises NotReady where no engine answers."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=wire.BUFFER_BYTES)
        except OSError as error:
            raise NotReady(f"no engine listens at {path} ({error.strerror})") from None
        async for message in wire.read_messages(reader, wire.FROM_ENGINE):
            if isinstance(message, wire.Pulse):
                return cls(reader, writer, message.stats, drain_timeout_s)
        raise NotReady(f"the engine at {path} has ended")

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._reading = self._loop.create_task(self._read())

    def submit(self, work: Sequence[RowWork]) -> None:
        if self._refusal is not None:
            self._deliver([RowDone(row_work.row_id, failure=self._refusal) for row_work in work])
            return
        self._row_ids.update(row_work.row_id for row_work in work)
        self._send(wire.Submit(list(work)))

    def cancel(self, row_ids: Sequence[int]) -> None:
        self._settle(row_ids)
        self._send(wire.Cancel(list(row_ids)))

    def keep_resident(self, bundle: BundleRef, keep: bool) -> None:
        self._send(wire.Keep(bundle, keep))

    def forget(self, digest: str) -> None:
        self._send(wire.Forget(digest))

    async def residency(self, digest: str) -> ResidencyState:
        """Raises NotReady when the engine has ended."""
        if self._refusal is ENDED:
            raise NotReady(ENDED.detail)
        number = next(self._numbers)
        answer: asyncio.Future[ResidencyState] = self._loop.create_future()
        self._questions[number] = answer
        self._send(wire.AskResidency(number, digest))
        try:
            return await answer
        finally:
            del self._questions[number]

    def stats(self) -> EngineStats:
        """As the engine last told them: with its last answers, or half a second ago."""
        return self._stats

    def hurry(self) -> None:
        self._is_hurried = True
        self._is_settled.set()

    def stop(self) -> None:
        """The engine works on for others: this front end takes its answers and leaves."""
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()

    async def _leave(self) -> None:
        self._refusal = self._refusal or STOPPING
        self._settle(())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout_s):
                await self._is_settled.wait()
        self._refuse(STOPPING)
        self._writer.close()

    async def _read(self) -> None:
        try:
            async for message in wire.read_messages(self._reader, wire.FROM_ENGINE):
                self._take(message)
        except msgspec.DecodeError:
            log.exception("the engine sent what is no message")
        finally:
            self._end()

    def _take(self, message: wire.Answers | wire.Pulse | wire.TellResidency) -> None:
        match message:
            case wire.Answers(rows, stats):
                self._stats = stats
                self._deliver(rows)
                self._settle([answer.row_id for answer in rows])
            case wire.Pulse(stats):
                self._stats = stats
            case wire.TellResidency(number, state):
                answer = self._questions.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(state)

    def _settle(self, row_ids: Sequence[int]) -> None:
        self._row_ids.difference_update(row_ids)
        if self._refusal is not None and (self._is_hurried or not self._row_ids):
            self._is_settled.set()

    def _end(self) -> None:
        """The connection is gone: whoever waits for something from it is told so."""
        self._stats = replace(self._stats, ready=False, heartbeat=-math.inf)
        self._refuse(ENDED)
        self._is_settled.set()
        self._writer.close()
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(NotReady(ENDED.detail))

    def _refuse(self, failure: RowFailure) -> None:
        """Take no more rows, and give up those that were not answered."""
        self._refusal = failure
        row_ids, self._row_ids = self._row_ids, set()
        if row_ids:
            self._deliver([RowDone(row_id, failure=failure) for row_id in sorted(row_ids)])

    def _send(self, message: wire.Message) -> None:
        """Into a closed connection too: `_end` has told or will tell everybody."""
        if not self._writer.is_closing():
            self._writer.write(wire.frame(message))
