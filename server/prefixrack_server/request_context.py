"""What every HTTP exchange gets: a request id, a count and a last line of defence. Knows no route.

Plain ASGI, outside of routing: one wrapper around `send`, no task and no copied context per request.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from contextvars import ContextVar

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefixrack.errors import InternalFault
from prefixrack_server.dialects import Refusal, dialect_of

ID_KEY = "prefixrack.request_id"
HEADERS_KEY = "prefixrack.headers"
ID_HEADER = b"x-request-id"
ID_PATTERN = re.compile(rb"[A-Za-z0-9._-]{1,128}")
CLIENT_CLOSED = 499  # nginx's number for a caller that left before the answer

# For log lines: of which request the running task is. Empty outside of one.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

Observe = Callable[[Scope, int, float], None]
Headers = Callable[[], list[tuple[bytes, bytes]]]

log = structlog.stdlib.get_logger("prefixrack.http")


def request_id_of(scope: Scope) -> str:
    return str(scope.get(ID_KEY, ""))


def add_headers(scope: Scope, headers: Headers) -> None:
    """Have the answer carry what `headers` returns when it begins, whichever answer it will be."""
    scope[HEADERS_KEY] = headers


class RequestContext:
    """Middleware. `observe(scope, status, seconds)` is called once per exchange, after routing filled the scope."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        token = REQUEST_ID.set(scope[ID_KEY])
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or CLIENT_CLOSED
        except Exception as error:  # noqa: BLE001 - outermost frame: whatever it was, the caller gets an answer
            await exchange.fail(error)
        finally:
            self._observe(scope, exchange.status or CLIENT_CLOSED, time.perf_counter() - exchange.started)
            REQUEST_ID.reset(token)


class _Exchange:
    def __init__(self, scope: Scope, send: Send) -> None:
        self.started = time.perf_counter()
        self.status = 0
        self._scope = scope
        self._send = send
        self._id = _accepted_id(scope) or _new_id()
        scope[ID_KEY] = self._id.decode()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = self._scope[HEADERS_KEY]() if HEADERS_KEY in self._scope else ()
            message = {**message, "headers": [*message.get("headers", ()), (ID_HEADER, self._id), *more]}
        await self._send(message)

    async def fail(self, error: Exception) -> None:
        log.error("request failed", request_id=self._scope[ID_KEY], path=self._scope.get("path"), exc_info=error)
        if self.status:
            raise error  # half an answer is out: only a broken connection can tell the caller
        await self._send_internal_error()

    async def _send_internal_error(self) -> None:
        request_id = self._scope[ID_KEY]
        fault = InternalFault(f"the server failed on this request: report request id {request_id} to its operator")
        dialect = dialect_of(self._scope["path"])
        body = json.dumps(dialect.document(Refusal(fault, 500, request_id))).encode()
        headers = [(b"content-type", dialect.media_type.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _accepted_id(scope: Scope) -> bytes | None:
    seen = next((value for name, value in scope["headers"] if name == ID_HEADER), None)
    return seen if seen is not None and ID_PATTERN.fullmatch(seen) else None


def _new_id() -> bytes:
    """No secret. The system's own randomness would give the interpreter's lock away each time, and wait for it."""
    return b"%032x" % random.getrandbits(128)
