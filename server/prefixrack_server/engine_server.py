"""The engine's door: front ends of this server connect over a Unix-domain socket. Knows no tensors and no HTTP.

The socket lies in a folder that nobody else may enter.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from prefixrack_server import engine_wire as wire
from prefixrack_server.messages import BundleRef, Engine, RowDone, RowWork

PULSE_S: Final = 0.5
# Front ends number their rows from 0. For the engine, rows of one connection are numbered from a multiple of this: no
# two connections, of a front end before and after a restart neither, have a number in common.
IDS_PER_CONNECTION: Final = 1 << 48

log = logging.getLogger(__name__)


class EngineServer:
    """Lives as long as the process. All methods belong to the event loop's thread, except `_deliver`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: dict[int, Connection] = {}
        self._numbers = itertools.count()
        self._kept = KeptByConnections(engine)

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Start the engine and take connections. Stopping the engine is the caller's."""
        self._loop = asyncio.get_running_loop()
        self._engine.start(self._deliver)
        server = await asyncio.start_unix_server(self._serve, path, limit=wire.BUFFER_BYTES)
        pulse = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            pulse.cancel()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        connection = Connection(number, writer, self._engine, self._kept)
        self._connections[number] = connection
        connection.send(wire.Pulse(self._engine.stats()))
        try:
            async for message in wire.read_messages(reader, wire.TO_ENGINE):
                await connection.take(message)
        except msgspec.DecodeError:
            log.exception("a front end sent what is no message: its connection is closed")
        finally:
            del self._connections[number]
            connection.leave()
            writer.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            pulse = wire.frame(wire.Pulse(self._engine.stats()))
            for connection in self._connections.values():
                connection.send_frame(pulse)

    def _deliver(self, answers: Sequence[RowDone]) -> None:
        """In the engine's thread. It must not wait for a front end that is slow to read."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, answers)

    def _hand_out(self, answers: Sequence[RowDone]) -> None:
        shares: defaultdict[int, list[RowDone]] = defaultdict(list)
        for answer in answers:
            number, row_id = divmod(answer.row_id, IDS_PER_CONNECTION)
            shares[number].append(answer._replace(row_id=row_id))
        stats = self._engine.stats()
        for number, share in shares.items():
            connection = self._connections.get(number)
            if connection is not None:  # else its front end has gone
                connection.settle(wire.Answers(share, stats))


class Connection:
    """One front end's connection. When it ends, however that comes, its rows are cancelled."""

    def __init__(self, number: int, writer: asyncio.StreamWriter, engine: Engine, kept: KeptByConnections) -> None:
        self._number = number
        self._first_id = number * IDS_PER_CONNECTION
        self._writer = writer
        self._engine = engine
        self._kept = kept
        self._row_ids: set[int] = set()  # submitted, neither answered nor cancelled

    async def take(self, message: wire.Submit | wire.Cancel | wire.Keep | wire.Forget | wire.AskResidency) -> None:
        match message:
            case wire.Submit(work):
                self._submit(work)
            case wire.Cancel(row_ids):
                self._cancel(row_ids)
            case wire.Keep(bundle, keep):
                self._kept.wish(self._number, bundle, keep)
            case wire.Forget(digest):
                self._engine.forget(digest)
            case wire.AskResidency(number, digest):
                self.send(wire.TellResidency(number, await self._engine.residency(digest)))

    def settle(self, answers: wire.Answers) -> None:
        self._row_ids.difference_update(answer.row_id for answer in answers.rows)
        self.send(answers)

    def leave(self) -> None:
        self._cancel(list(self._row_ids))
        self._kept.leave(self._number)

    def send(self, message: wire.Message) -> None:
        self.send_frame(wire.frame(message))

    def send_frame(self, content: bytes) -> None:
        """Never waits: what a front end is owed is bounded by the rows that it may have waiting."""
        self._writer.write(content)

    def _submit(self, work: Sequence[RowWork]) -> None:
        self._row_ids.update(row_work.row_id for row_work in work)
        self._engine.submit([row_work._replace(row_id=self._first_id + row_work.row_id) for row_work in work])

    def _cancel(self, row_ids: Sequence[int]) -> None:
        self._row_ids.difference_update(row_ids)
        self._engine.cancel([self._first_id + row_id for row_id in row_ids])


class KeptByConnections:
    """An adapter stays on the device as long as one front end wants it to: each tells what it reads in the registry,
    and one that has gone must not leave its wishes behind."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wishes: dict[BundleRef, set[int]] = {}

    def wish(self, number: int, bundle: BundleRef, keep: bool) -> None:
        if keep:
            self._wishes.setdefault(bundle, set()).add(number)
            self._engine.keep_resident(bundle, True)
        else:
            self._drop(number, bundle)

    def leave(self, number: int) -> None:
        for bundle in [bundle for bundle, numbers in self._wishes.items() if number in numbers]:
            self._drop(number, bundle)

    def _drop(self, number: int, bundle: BundleRef) -> None:
        numbers = self._wishes.get(bundle, set())
        numbers.discard(number)
        if not numbers:
            self._wishes.pop(bundle, None)
            self._engine.keep_resident(bundle, False)
