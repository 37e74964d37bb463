"""The HTTP connection: uvicorn's, with head and body of a short answer in one write, thus one packet."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# More than this is written at once: it is a stream, and whoever writes it must feel a slow reader.
MAX_HELD_BYTES: Final = 64 * 1024


class OneWriteProtocol(HttpToolsProtocol):
    """It also notes, in the event loop's time, what tells a slow client: `head_since` the head of a request is being
    waited for (None where it is there), `body_since` its body, of which `body_bytes` came so far, `heard_at` bytes came
    last, and `answered_at` an answer ended."""

    head_since: float | None = None
    body_since: float = 0.0
    body_bytes: int = 0
    heard_at: float = 0.0
    answered_at: float = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(HoldingTransport(transport, self.loop))  # type: ignore[arg-type]
        self.heard_at = self.head_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        self.body_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        self.head_since = self.heard_at
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_since = None
        self.body_since, self.body_bytes = self.heard_at, 0
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self.answered_at = self.loop.time()
        super().on_response_complete()

    def close_after_answer(self) -> None:
        """The one that is being made. Its head is sent without `Connection: close` where it is out already."""
        if self.cycle is not None:
            self.cycle.keep_alive = False


class HoldingTransport:
    """Holds what is written until the event loop's turn is over. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_HELD_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self._transport.writelines(held)
