"""The way of a prediction past the web framework: its stack and its routing would cost as much as the rest of a short
answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from prefixrack.errors import Fault
from prefixrack_server.problems import problem_response
from prefixrack_server.request_context import request_id_of
from prefixrack_server.request_headers import IndexedHeaders
from prefixrack_server.routes.predict import BareRoute, router


class Application(FastAPI):
    """FastAPI, which predictions go past once `shorten` was called, as long as they are not traced: its telemetry wants
    to see their route."""

    _predictions: ASGIApp | None = None

    def shorten(self, middleware: Sequence[Middleware], is_traced: Callable[[], bool]) -> None:
        """Add the middleware, outermost first, on both ways."""
        for layer in reversed(middleware):
            self.add_middleware(layer.cls, *layer.args, **layer.kwargs)
        self._is_traced = is_traced
        predictions: ASGIApp = _predict
        for layer in reversed(middleware):
            predictions = layer.cls(predictions, *layer.args, **layer.kwargs)
        self._predictions = predictions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = _route_of(scope)
        if route is None or self._predictions is None or self._is_traced():
            await super().__call__(scope, receive, send)
            return
        scope["app"], scope["route"] = self, route
        await self._predictions(scope, receive, send)


class QuickRequest(Request):
    """Of a prediction, which looks for some six headers."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self._indexed = IndexedHeaders(scope)

    @property
    def headers(self) -> IndexedHeaders:
        return self._indexed


ROUTES = [route for route in router.routes if isinstance(route, BareRoute)]


def _route_of(scope: Scope) -> BareRoute | None:
    """By the patterns of the routes themselves."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    for route in ROUTES:
        match = route.path_regex.match(scope["path"])
        if match is not None:
            scope["path_params"] = match.groupdict()
            return route
    return None


async def _predict(scope: Scope, receive: Receive, send: Send) -> None:
    response = await _answer(scope["route"], QuickRequest(scope, receive))
    await response(scope, receive, send)


async def _answer(route: BareRoute, request: Request) -> Response:
    try:
        response: Any = await route.endpoint(request)
    except Fault as fault:
        return problem_response(fault, request_id_of(request.scope))
    assert isinstance(response, Response)
    return response
