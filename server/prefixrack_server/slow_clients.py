"""Clients that do not go on: with the head of a request, its body, or reading the answer. Knows connections, no routes.

None of them holds a permit: rows are counted when the body is there, and answered before the answer is read. But each
holds a socket and memory. Connections are looked through once a while, so that requests pay for no timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from prefixrack.errors import Fault, RequestStalled
from prefixrack_server.one_write import OneWriteProtocol
from prefixrack_server.problems import problem_response
from prefixrack_server.request_context import request_id_of


class SlowClients:
    """Lives as long as the HTTP server. A bulk body may pause as long as it likes once its answer has begun: whoever
    sends it may be waiting for answers."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        # Who does not read: what is left to be written, and since when it is as much.
        self._unread: dict[OneWriteProtocol, tuple[int, float]] = {}

    def sweep(self, connections: Iterable[Any]) -> None:
        now = asyncio.get_running_loop().time()
        known, self._unread = self._unread, {}
        for connection in list(connections):
            if not isinstance(connection, OneWriteProtocol) or connection.transport.is_closing():
                continue
            if self._is_not_reading(connection, known, now):
                connection.transport.abort()
            elif self._is_late(connection.head_since, now):
                _answer(connection, self._fault("the head of a request"), "")
            elif self._is_late(_body_since(connection), now):
                _answer(connection, self._fault("the rest of the body"), request_id_of(connection.scope))  # type: ignore[arg-type]

    def _is_late(self, since: float | None, now: float) -> bool:
        return since is not None and now - since > self._patience_s

    def _is_not_reading(
        self, connection: OneWriteProtocol, known: dict[OneWriteProtocol, tuple[int, float]], now: float
    ) -> bool:
        if not connection.flow.write_paused:
            return False
        size = connection.transport.get_write_buffer_size()
        seen, since = known.get(connection, (size, now))
        self._unread[connection] = (size, since if seen == size else now)
        return self._is_late(self._unread[connection][1], now)

    def _fault(self, missing: str) -> Fault:
        return RequestStalled(
            f"{missing} did not come within {self._patience_s:g} s: send it without a pause, or on a faster connection"
        )


def _body_since(connection: OneWriteProtocol) -> float | None:
    """Since when a body is being waited for; None where none is, or where it is not read at the moment."""
    cycle = connection.cycle
    if cycle is None or cycle.response_started or not cycle.more_body or connection.flow.read_paused:
        return None
    return connection.heard_at


def _answer(connection: OneWriteProtocol, fault: Fault, request_id: str) -> None:
    """Say why, and close: whatever waits for the body finds that its caller has left."""
    response = problem_response(fault, request_id, {"Connection": "close"})
    head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
    connection.transport.write(b"HTTP/1.1 408 Request Timeout\r\n" + head + b"\r\n" + bytes(response.body))
    connection.transport.close()
