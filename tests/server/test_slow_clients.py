"""Clients that stall, over real sockets: they are told so and let go, and hold no permit meanwhile. And the drain."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2
import pytest

from listening import Listening
from prefixrack_server.slow_clients import MIN_BYTES_PER_S

STALL_S = 60.0  # of the server's time, which the tests let pass
LIMITS = {"max_queued_rows": 1}
BODY = json.dumps({"inputs": "hello"}).encode()


def head(length: int, *more: str, media_type: str = "application/json") -> bytes:
    lines = ["POST /v1/intent/predict HTTP/1.1", "Host: localhost", f"Content-Type: {media_type}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


@asynccontextmanager
async def listening(serving: Any, bundles: Any, until: Any, **http: Any) -> AsyncIterator[Listening]:
    async with serving(limits=LIMITS, http={"auth": "none", **http}) as server:
        await server.upload(bundles("intent"))
        listening = Listening(server)
        task = asyncio.create_task(listening.http.serve())
        await until(lambda: listening.http.started)
        try:
            yield listening
        finally:
            listening.http.should_exit = listening.http.force_exit = True
            await task


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def only_connection(place: Listening) -> Any:
    (connection,) = place.http.server_state.connections
    return connection


async def write_slowly(
    place: Listening, writer: asyncio.StreamWriter, parts: Iterable[bytes], pause_s: float, until: Any, pass_time: Any
) -> None:
    """With so many seconds after each part, until the server lets the connection go."""
    connection = only_connection(place)
    num_bytes = connection.body_bytes
    for part in parts:
        num_bytes += len(part)
        writer.write(part)
        await until(partial(has_come, connection, num_bytes))
        if connection.transport.is_closing():
            return
        pass_time(pause_s)
        place.look_for_slow_clients()


def has_come(connection: Any, num_bytes: int) -> bool:
    return bool(connection.body_bytes >= num_bytes or connection.transport.is_closing())


@pytest.mark.parametrize(
    ("sent", "missing"),
    [
        (b"", "head"),
        (b"POST /v1/intent/predict HTTP/1.1\r\nHost: loc", "head"),
        (head(len(BODY)), "body"),
        (head(len(BODY)) + BODY[:5], "body"),
    ],
)
async def test_a_stalled_request_is_told_so_and_holds_no_permit(
    serving: Any, bundles: Any, until: Any, pass_time: Any, sent: bytes, missing: str
) -> None:
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        writer.write(sent)
        await writer.drain()
        assert await place.predict() == 200  # the one permit is free
        pass_time(STALL_S + 1)
        status, headers, body = await read_answer(reader)
        assert (status, headers["connection"], json.loads(body)["code"]) == (408, "close", "request_stalled")
        assert missing in json.loads(body)["detail"]
        assert await reader.read() == b""
        assert place.num_rows == 0
        writer.close()


async def test_a_head_that_trickles_is_as_late(serving: Any, bundles: Any, until: Any, pass_time: Any) -> None:
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        await until(lambda: place.http.server_state.connections)
        await write_slowly(place, writer, each_byte(head(len(BODY))), STALL_S / 4, until, pass_time)
        assert (await read_answer(reader))[0] == 408
        writer.close()


def each_byte(text: bytes) -> Iterable[bytes]:
    return (bytes([byte]) for byte in text)


@pytest.mark.parametrize("sent_later", [b"", b"x", b"xx"])
async def test_who_was_answered_before_its_body_came_is_let_go_if_it_never_comes(
    serving: Any, bundles: Any, until: Any, pass_time: Any, sent_later: bytes
) -> None:
    """A refusal needs no key, so whoever likes could hold as many connections."""
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        writer.write(head(1000, media_type="text/plain"))
        assert (await read_answer(reader))[0] == 415
        await write_slowly(place, writer, each_byte(sent_later), STALL_S / 4, until, pass_time)
        pass_time(STALL_S)
        await until(lambda: not place.http.server_state.connections)
        writer.close()


async def test_line_ends_between_requests_hold_no_connection(
    serving: Any, bundles: Any, until: Any, pass_time: Any
) -> None:
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        writer.write(head(len(BODY)) + BODY)
        assert (await read_answer(reader))[0] == 200
        await write_slowly(place, writer, [b"\r\n"], STALL_S + 1, until, pass_time)
        await until(lambda: not place.http.server_state.connections)
        writer.close()


async def test_a_body_that_trickles_is_as_late(serving: Any, bundles: Any, until: Any, pass_time: Any) -> None:
    """Each byte is in time. One key would be enough to hold as many connections as there are."""
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        await begin_body(place, writer, 1_000_000, until)
        await write_slowly(place, writer, [b" "] * 100, STALL_S / 4, until, pass_time)
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["code"]) == (408, "request_stalled")
        assert f"{MIN_BYTES_PER_S} bytes a second" in json.loads(body)["detail"]
        writer.close()


async def begin_body(place: Listening, writer: asyncio.StreamWriter, length: int, until: Any) -> None:
    """Returns when the server has the head."""
    writer.write(head(length))
    await until(lambda: place.http.server_state.connections and only_connection(place).head_since is None)


async def test_a_body_that_comes_slowly_is_taken(serving: Any, bundles: Any, until: Any, pass_time: Any) -> None:
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        pause_s = STALL_S / 4
        blanks = b" " * int(1.5 * MIN_BYTES_PER_S * pause_s)  # of whatever size in JSON
        await begin_body(place, writer, len(BODY) + 20 * len(blanks), until)
        await write_slowly(place, writer, [blanks] * 20, pause_s, until, pass_time)
        writer.write(BODY)
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_who_does_not_read_its_answer_is_let_go(serving: Any, bundles: Any, until: Any, pass_time: Any) -> None:
    """A bulk body of which no answer is read: what does not fit the sockets' buffers waits for its reader."""
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.connect(("127.0.0.1", place.port))
        reader, writer = await asyncio.open_connection(sock=small, limit=1024)
        line = json.dumps({"inputs": "hello", "id": "x" * 100_000}).encode() + b"\n"
        num_lines, engine = 80, place.server.engine
        num_rows = engine.num_rows + num_lines
        writer.write(head(len(line) * num_lines, media_type="application/jsonl") + line * num_lines)
        connections: Any = place.http.server_state.connections
        await until(lambda: engine.num_rows == num_rows and only_connection(place).flow.write_paused)

        def is_let_go() -> bool:
            pass_time(STALL_S)
            place.look_for_slow_clients()
            return not connections

        await until(is_let_go)
        await until(lambda: not place.num_rows)
        assert await place.predict() == 200
        writer.transport.abort()
        del reader


async def test_a_bulk_body_may_pause_between_lines(serving: Any, bundles: Any, until: Any, pass_time: Any) -> None:
    async with listening(serving, bundles, until, stall_timeout_s=STALL_S) as place:
        reader, writer = await place.connect()
        line = b'{"inputs": "hello"}\n'
        writer.write(head(2 * len(line), media_type="application/jsonl") + line)
        answer = await reader.readuntil(b"}\n\r\n")
        assert b"200 OK" in answer
        pass_time(2 * STALL_S)
        place.look_for_slow_clients()
        writer.write(line)
        assert b'"index":1' in await reader.readuntil(b"}\n\r\n")
        writer.close()


async def test_from_the_first_signal_on_ready_fails_and_connections_end_with_their_answer(
    serving: Any, bundles: Any, until: Any
) -> None:
    async with listening(serving, bundles, until, drain_s=60.0) as place:
        request = head(len(BODY)) + BODY
        (first, to_first), (second, to_second) = await place.connect(), await place.connect()
        to_first.write(request)
        assert "connection" not in (await read_answer(first))[1]
        place.server.engine.go.clear()
        to_second.write(request)
        await until(lambda: place.num_rows == 1)
        place.http.handle_exit(signal.SIGTERM, None)
        place.server.engine.go.set()
        status, headers, _ = await read_answer(second)
        assert (status, headers["connection"]) == (200, "close")
        to_first.write(request)
        status, headers, _ = await read_answer(first)
        assert (status, headers["connection"]) == (200, "close")
        assert [await reader.read() for reader in (first, second)] == [b"", b""]
        async with httpx2.AsyncClient(base_url=place.base_url, timeout=60) as client:
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.get("/health/live")).headers["connection"] == "close"
        for writer in (to_first, to_second):
            writer.close()
