"""Open-loop load: requests are sent when they are due, however long the answers to earlier ones take.

A latency counts from when its request was due, not from when it was sent: a server that stalls, or a load that falls
behind, cannot hide the time that callers would have waited (coordinated omission). Knows HTTP only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import httptools
import numpy as np
import uvloop

PATIENCE_S = 60.0  # for what is not answered when the last request has been sent
NO_ANSWER = 599  # in place of a status, where the connection was refused or lost


class Call(NamedTuple):
    """A request that is due so many seconds after the start. `kind` names whose latencies it belongs to."""

    due_s: float
    kind: str
    message: bytes


class Answer(NamedTuple):
    kind: str
    status: int
    latency_s: float
    late_s: float  # how long after it was due the request was sent
    due_s: float = 0.0

    @property
    def done_s(self) -> float:
        return self.due_s + self.latency_s


@dataclass(frozen=True)
class Latencies:
    """Milliseconds. `late_p99_ms` is what the load itself was late by: it is part of the others."""

    num_answers: int
    num_failures: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    late_p99_ms: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Latencies:
        p50, p95, p99 = np.percentile([1e3 * answer.latency_s for answer in answers], [50, 95, 99])
        late = np.percentile([1e3 * answer.late_s for answer in answers], 99)
        num_failures = sum(answer.status >= 400 for answer in answers)
        rounded = (round(float(value), 2) for value in (p50, p95, p99, late))
        return cls(len(answers), num_failures, *rounded)


def message_of(
    method: str, path: str, body: bytes = b"", content_type: str = "application/json", **headers: str
) -> bytes:
    """A request as it goes over the wire; `x_api_key` is the header X-Api-Key."""
    named = {"host": "localhost", "content-type": content_type, "content-length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + body


def arrivals(rate_per_s: float, duration_s: float, random: np.random.Generator) -> list[float]:
    """When independent callers arrive: a Poisson process."""
    gaps = random.exponential(1 / rate_per_s, int(2 * rate_per_s * duration_s) + 10)
    return [float(due) for due in np.cumsum(gaps) if due < duration_s]


def run_calls(port: int, calls: Iterable[Call]) -> list[Answer]:
    """Send every call when it is due, and wait for all answers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, sorted(calls)))


async def _run(port: int, calls: Sequence[Call]) -> list[Answer]:
    loop = asyncio.get_running_loop()
    load = Load(port, len(calls), loop)
    load.started_at = loop.time()
    for call in calls:
        wait_s = load.started_at + call.due_s - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        load.send(call)
    async with asyncio.timeout(PATIENCE_S):
        await load.is_done.wait()
    load.close()
    return load.answers


class Load:
    """Open connections, idle ones first in use; a new one where all are busy."""

    def __init__(self, port: int, num_calls: int, loop: asyncio.AbstractEventLoop) -> None:
        self._port = port
        self._num_calls = num_calls
        self._loop = loop
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self.started_at = 0.0
        self.answers: list[Answer] = []
        self.is_done = asyncio.Event()

    def send(self, call: Call) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.send(call)
                return
        task = self._loop.create_task(self._open(call))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, call: Call) -> None:
        try:
            _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        except OSError:
            late_s = self.elapsed_s() - call.due_s
            self.note(Answer(call.kind, NO_ANSWER, late_s, late_s, call.due_s))
        else:
            connection.send(call)

    def elapsed_s(self) -> float:
        return self._loop.time() - self.started_at

    def take_back(self, connection: Connection) -> None:
        self._idle.append(connection)

    def note(self, answer: Answer) -> None:
        self.answers.append(answer)
        if len(self.answers) == self._num_calls:
            self.is_done.set()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._call: Call | None = None
        self._late_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which has no such base

    @property
    def is_open(self) -> bool:
        """A server lets go of connections that were idle for long."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, call: Call) -> None:
        assert self._transport is not None
        self._call = call
        self._late_s = self._load.elapsed_s() - call.due_s
        self._transport.write(call.message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        self._end(status)
        self._load.take_back(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._call is not None:
            self._end(NO_ANSWER)

    def _end(self, status: int) -> None:
        call, self._call = self._call, None
        assert call is not None, "an answer that nobody asked for"
        latency_s = self._load.elapsed_s() - call.due_s
        self._load.note(Answer(call.kind, status, latency_s, self._late_s, call.due_s))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
