"""Bulk: JSON Lines in, JSON Lines out, in order, with bounded memory however long the body is. Knows no tensors.

Three tasks an exchange: intake (read, tokenise, submit, at most `bulk_window` inputs in flight), outlet (answers in
order), sender. Between outlet and sender lies a file: a client that reads no answer before it has sent its whole body,
as most HTTP libraries do, neither blocks the server nor fills its memory.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from prefixrack import errors
from prefixrack.types import Parameters
from prefixrack_server.config import LimitsConfig
from prefixrack_server.dispatch import Ticket
from prefixrack_server.envelope import DEFAULTS, error_json, parse_json, parse_parameters, to_json
from prefixrack_server.predict import BULK_PRIORITY, Batch, Call, Outcome, Predictor, outcome_json
from prefixrack_server.registry.registry import Version
from prefixrack_server.tokenise import is_big

MEDIA_TYPES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
BATCH_LINES = 64
MEMORY_BYTES = 1 << 20  # of answers not yet sent; more goes to the file
SEND_BYTES = 64 * 1024
OVERLOAD_PAUSE_S = 0.05
MAX_OVERLOAD_PAUSE_S = 2.0
QUOTA_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the body; `text` None where it is longer than allowed."""

    index: int
    text: bytes | None


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """A line as understood: an input with its parameters, or why there is none."""

    index: int
    line_id: Any
    inputs: Any = None
    parameters: Parameters = DEFAULTS
    fault: errors.Fault | None = None
    num_bytes: int = 0


@dataclass(slots=True)
class Pending:
    """A line on its way: either already at fault, or waiting for its ticket."""

    line: ParsedLine
    fault: errors.Fault | None = None
    batch: Batch | None = None
    ticket: Ticket | None = None


async def split_lines(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[list[Line]]:
    """The lines of each chunk, blank ones left out; never holds more than a chunk and one line."""
    index, rest, is_skipping = 0, b"", False
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        lines = []
        for text in whole:
            if is_skipping:
                is_skipping = False
                continue
            if text.strip():
                lines.append(Line(index, text if len(text) <= max_bytes else None))
                index += 1
        if is_skipping:
            rest = b""
        elif len(rest) > max_bytes:
            lines.append(Line(index, None))
            index, rest, is_skipping = index + 1, b"", True
        if lines:
            yield lines
    if rest.strip() and not is_skipping:
        yield [Line(index, rest)]


def parse_line(line: Line, max_bytes: int) -> ParsedLine:
    if line.text is None:
        fault = errors.PayloadTooLarge(f"the line has more than the {max_bytes} bytes that are allowed: shorten it")
        return ParsedLine(line.index, None, fault=fault)
    line_id = None
    try:
        document = _checked_document(parse_json(line.text))
        line_id = _checked_id(document.get("id"))
        parameters = parse_parameters(document.get("parameters"))
        return ParsedLine(line.index, line_id, document["inputs"], parameters, num_bytes=len(line.text))
    except errors.Fault as fault:
        return ParsedLine(line.index, line_id, fault=fault)


def parameters_key(line: ParsedLine) -> tuple[Parameters, frozenset[str]]:
    """Equal for lines that are one tokenizer call. Models are equal whatever of them was set, but a task refuses a
    parameter that is set though it has none of it."""
    return line.parameters, frozenset(line.parameters.model_fields_set)


def _checked_document(document: Any) -> dict[str, Any]:
    allowed = {"id", "inputs", "parameters"}
    if not isinstance(document, dict) or "inputs" not in document or set(document) - allowed:
        raise errors.InvalidRequest('the line is not an object with "inputs" and perhaps "id" and "parameters", only')
    if isinstance(document["inputs"], list):
        raise errors.InvalidRequest("`inputs` of a line is a list: send one input a line")
    return document


def _checked_id(line_id: Any) -> Any:
    if line_id is None or isinstance(line_id, str | int | float):
        return line_id
    raise errors.InvalidRequest("`id` of a line must be a string or a number")


class Outbox:
    """Bytes between outlet and sender, in order: in memory while they are few, else in a temporary file."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES, dir=str(folder))  # noqa: SIM115 - closed by close()
        self._max_bytes = max_bytes
        self._written = self._read = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    async def put(self, data: bytes) -> None:
        while self._written - self._read > self._max_bytes:
            await self._change()
        self._file.seek(self._written)
        self._file.write(data)
        self._written += len(data)
        self._changed.set()

    def end(self) -> None:
        """Nothing more will be put."""
        self._is_closed = True
        self._changed.set()

    async def take(self) -> bytes:
        """The next bytes; none at the end."""
        while self._written == self._read:
            if self._is_closed:
                return b""
            await self._change()
        self._file.seek(self._read)
        data: bytes = self._file.read(SEND_BYTES)
        self._read += len(data)
        if self._read == self._written:
            self._file.seek(0)
            self._file.truncate()
            self._read = self._written = 0
        self._changed.set()
        return data

    def close(self) -> None:
        self._file.close()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class BulkAnswer(Response):
    """The streamed answer to one bulk request, bound to `version` for all of its lines."""

    media_type = "application/jsonl"

    def __init__(
        self,
        request: Request,
        version: Version,
        predictor: Predictor,
        call: Call,
        limits: LimitsConfig,
        folder: Path,
        note: Callable[[errors.Fault | None], None] | None = None,
    ) -> None:
        """`note` is told of each line's fault, None where it has an answer."""
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request = request
        self._version = version
        self._predictor = predictor
        self._call = call
        self._limits = limits
        self._folder = folder
        self._note = note
        self._window = asyncio.Semaphore(limits.bulk_window)
        self._pending: asyncio.Queue[Pending | None] = asyncio.Queue()
        self._is_read = False
        self._num_requests = 1  # that are not yet in the usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outbox = Outbox(self._folder, self._limits.bulk_spool_bytes)
        try:
            with self._predictor.holds.hold([self._version.bundle]):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._take_in())
                    tasks.create_task(self._answer(outbox))
                    tasks.create_task(self._send(outbox, send))
        except* ClientDisconnect:
            pass  # nobody is there to be told
        finally:
            self._drop_pending()
            outbox.close()

    async def _take_in(self) -> None:
        async for lines in split_lines(self._request.stream(), self._limits.max_line_bytes):
            for first in range(0, len(lines), BATCH_LINES):
                await self._take_lines(lines[first : first + BATCH_LINES])
        self._is_read = True
        await self._pending.put(None)

    async def _take_lines(self, lines: Sequence[Line]) -> None:
        parsed = [parse_line(line, self._limits.max_line_bytes) for line in lines]
        for (parameters, _), group in groupby(parsed, parameters_key):
            for pending in await self._prepare(list(group), parameters):
                await self._window.acquire()
                await self._admit(pending)
                await self._submit(pending)
                self._pending.put_nowait(pending)

    async def _prepare(self, lines: Sequence[ParsedLine], parameters: Parameters) -> list[Pending]:
        """One tokenizer call for all lines with the same parameters."""
        sound = [line for line in lines if line.fault is None]
        inputs = [line.inputs for line in sound]
        try:
            batch = await self._predictor.prepare(self._version, inputs, parameters, big=True)
        except errors.RequestFault as fault:
            return [Pending(line, line.fault or fault) for line in lines]
        prepared = iter(batch.split())
        return [Pending(line, line.fault, None if line.fault else next(prepared)) for line in lines]

    async def _admit(self, pending: Pending) -> None:
        """Take a line's tokens from the tenant's quota; it waits for room there, as long as the deadline lets it."""
        while pending.batch is not None:
            try:
                self._predictor.check_tokens(pending.batch.num_tokens)
                await self._call.allowance.take_tokens(pending.batch.num_tokens)
                return
            except errors.TooManyTokens as fault:
                pending.fault, pending.batch = fault, None
            except errors.TokenQuotaExceeded as fault:
                if self._call.deadline is not None and time.monotonic() >= self._call.deadline:
                    pending.fault, pending.batch = fault, None
                await asyncio.sleep(min(fault.retry_after_s or 0.0, QUOTA_PAUSE_S))

    async def _submit(self, pending: Pending) -> None:
        """Hand a line's rows to the engine; when the server is full the line waits instead of failing."""
        if pending.batch is None:
            return
        rows = list(pending.batch.rows())
        while pending.ticket is None:
            try:
                pending.ticket = self._predictor.dispatcher.submit(
                    rows, self._call.payer, self._call.deadline, BULK_PRIORITY
                )
            except errors.ServerOverloaded:
                await asyncio.sleep(OVERLOAD_PAUSE_S)

    async def _answer(self, outbox: Outbox) -> None:
        while (pending := await self._pending.get()) is not None:
            outcome = await self._outcome(pending)
            self._count(pending, outcome)
            await outbox.put(to_json(line_json(pending.line, outcome)) + b"\n")
            self._window.release()
        outbox.end()

    async def _outcome(self, pending: Pending) -> Outcome:
        while pending.fault is None and pending.batch is not None and pending.ticket is not None:
            try:
                answers = await self._predictor.dispatcher.wait(pending.ticket, self._is_gone)
                self._predictor.note_usage(pending.batch, self._call.principal, self._num_requests)
                self._num_requests = 0
                finish = partial(pending.batch.finish, iter(answers))
                (outcome,) = await self._predictor.tokeniser.work(is_big(1, pending.line.num_bytes), finish)
            except errors.ServiceFault as fault:
                if fault.retry_after_s is None:
                    return fault
                await self._submit_again(pending, fault.retry_after_s)
            else:
                return outcome
        return pending.fault or errors.InternalFault("the line was lost: send it again")

    async def _submit_again(self, pending: Pending, retry_after_s: float) -> None:
        """The queue was full for this tenant: as with a server that is full, the line waits instead of failing."""
        await asyncio.sleep(min(max(retry_after_s, OVERLOAD_PAUSE_S), MAX_OVERLOAD_PAUSE_S))
        pending.ticket = None
        await self._submit(pending)

    def _count(self, pending: Pending, outcome: Outcome) -> None:
        if self._note is not None:
            self._note(outcome if isinstance(outcome, errors.Fault) else None)
        if isinstance(outcome, errors.Fault):
            self._predictor.traffic.failed(self._version, outcome)
        elif pending.batch is not None:
            num_tokens, num_rows, _ = pending.batch.usage
            self._predictor.traffic.answered(self._version, num_rows, num_tokens, seconds=None)

    async def _is_gone(self) -> bool:
        """While the body is being read its reader finds out; a second reader would steal from it."""
        return self._is_read and await self._request.is_disconnected()

    async def _send(self, outbox: Outbox, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while data := await outbox.take():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _drop_pending(self) -> None:
        while not self._pending.empty():
            pending = self._pending.get_nowait()
            if pending is not None and pending.ticket is not None:
                self._predictor.dispatcher.cancel(pending.ticket)


def line_json(line: ParsedLine, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, errors.Fault):
        return {"index": line.index, "id": line.line_id, **error_json(outcome)}
    return {"index": line.index, "id": line.line_id, "output": outcome_json(outcome)}
