"""Clients that do not go on: with the head of a request, its body, or reading the answer. Knows connections, no routes.

None of them holds a permit: rows are counted when the body is there, and answered before the answer is read. But each
holds a socket and memory. Connections are looked through once a while, so that requests pay for no timers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from prefixrack.errors import Fault, RequestStalled
from prefixrack_server.one_write import OneWriteProtocol
from prefixrack_server.problems import problem_response
from prefixrack_server.request_context import request_id_of

# What a body comes in at least, on the whole, beyond the patience that there is with a pause.
MIN_BYTES_PER_S: Final = 500


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
            elif self._is_late(_idle_since(connection), now):
                connection.transport.close()
            elif _awaits_body(connection) and self._is_body_late(connection, now):
                _answer(connection, self._fault("the rest of the body"), request_id_of(connection.scope))  # type: ignore[arg-type]

    def _is_late(self, since: float | None, now: float) -> bool:
        return since is not None and now - since > self._patience_s

    def _is_body_late(self, connection: OneWriteProtocol, now: float) -> bool:
        """It stalls, or trickles: each byte would be in time, and the whole never there."""
        allowed_s = self._patience_s + connection.body_bytes / MIN_BYTES_PER_S
        return self._is_late(connection.heard_at, now) or now - connection.body_since > allowed_s

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
            f"{missing} did not come within {self._patience_s:g} s, or in fewer than {MIN_BYTES_PER_S} bytes a second: "
            "send it without a pause, or on a faster connection"
        )


def _awaits_body(connection: OneWriteProtocol) -> bool:
    """Not where it is not read at the moment."""
    cycle = connection.cycle
    return not (cycle is None or cycle.response_started or not cycle.more_body or connection.flow.read_paused)


def _idle_since(connection: OneWriteProtocol) -> float | None:
    """Since when there has been no request, though something came: the rest of one that is answered, or line ends. By
    that, uvicorn's own timer for idle connections has ended."""
    cycle = connection.cycle
    is_answered = cycle is not None and cycle.response_complete and connection.head_since is None
    return connection.answered_at if is_answered and connection.timeout_keep_alive_task is None else None


def _answer(connection: OneWriteProtocol, fault: Fault, request_id: str) -> None:
    """Say why, and close: whatever waits for the body finds that its caller has left."""
    response = problem_response(fault, request_id, {"Connection": "close"})
    head = b"".join(b"%s: %s\r\n" % header for header in response.raw_headers)
    connection.transport.write(b"HTTP/1.1 408 Request Timeout\r\n" + head + b"\r\n" + bytes(response.body))
    connection.transport.close()
