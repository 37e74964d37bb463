"""The way of a prediction past the web framework: its routing would cost as much as the rest of a short answer."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from prefixrack.errors import Fault
from prefixrack_server.problems import problem_response
from prefixrack_server.request_context import request_id_of
from prefixrack_server.routes.predict import BareRoute, router


class PredictShortcut:
    """Middleware, the innermost. Calls the predict routes by their own patterns, and turns their faults into answers;
    everything else goes on to FastAPI, and so do they where its telemetry is on, which wants to see the route."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._routes = [route for route in router.routes if isinstance(route, BareRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._select(scope)
        if route is None:
            await self._app(scope, receive, send)
            return
        response = await _answer(route, Request(scope, receive))
        await response(scope, receive, send)

    def _select(self, scope: Scope) -> BareRoute | None:
        if scope["type"] != "http" or scope["method"] != "POST" or "fastapi.telemetry" in scope:
            return None
        for route in self._routes:
            match = route.path_regex.match(scope["path"])
            if match is not None:
                scope["route"], scope["path_params"] = route, match.groupdict()
                return route
        return None


async def _answer(route: BareRoute, request: Request) -> Response:
    try:
        response: Any = await route.endpoint(request)
    except Fault as fault:
        return problem_response(fault, request_id_of(request.scope))
    assert isinstance(response, Response)
    return response
