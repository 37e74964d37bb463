"""Faults as HTTP answers: the one table from fault class to status. Knows no route; bodies are `dialects.py`'s.

The way back, from status to exception, is `prefixrack.errors.STATUS_ERRORS`; a test holds the two together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from prefixrack import errors
from prefixrack.validation import Problem, problems_of
from prefixrack_server.dialects import PROBLEM, Dialect, Refusal, dialect_of
from prefixrack_server.envelope import MAX_SHOWN
from prefixrack_server.request_context import request_id_of

MAX_PATH_SHOWN = 120

STATUS_OF: Mapping[type[errors.Fault], int] = {
    errors.Fault: 500,
    errors.InputFault: 422,
    errors.RequestFault: 422,
    errors.MalformedJson: 400,
    errors.InvalidName: 400,
    errors.MissingKey: 401,
    errors.InvalidKey: 401,
    errors.Forbidden: 403,
    errors.SourceRefused: 403,
    errors.RouteNotFound: 404,
    errors.AdapterNotFound: 404,
    errors.VersionNotFound: 404,
    errors.AliasNotFound: 404,
    errors.KeyNotFound: 404,
    errors.TenantNotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.RequestStalled: 408,
    errors.PayloadTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.BundleFault: 422,
    errors.BundleTooLarge: 413,
    errors.RegistryFault: 409,
    errors.PreconditionFailed: 412,
    errors.PreconditionRequired: 428,
    errors.DiskFull: 507,
    errors.ServiceFault: 500,
    errors.RateLimited: 429,
    errors.ServerOverloaded: 503,
    errors.NotReady: 503,
    errors.RegistryUnavailable: 503,
    errors.SourceUnavailable: 503,
    errors.DeadlineExceeded: 504,
}

FAULT_OF_STATUS: Mapping[int, type[errors.Fault]] = {
    400: errors.MalformedJson,
    401: errors.MissingKey,
    403: errors.Forbidden,
    404: errors.RouteNotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    415: errors.UnsupportedMediaType,
    503: errors.NotReady,
}


def status_of(kind: type[errors.Fault]) -> int:
    """The HTTP status of a fault class: its own, or that of its nearest ancestor in the table."""
    return next(STATUS_OF[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS_OF)


def problem_response(
    fault: errors.Fault, request_id: str, headers: Mapping[str, str] | None = None, dialect: Dialect = PROBLEM
) -> Response:
    """The answer that tells `fault`: never the input itself, only what the message chose to show of it."""
    status = status_of(type(fault))
    return Response(
        # ASCII only: a lone surrogate in a message must not break the answer that reports it.
        json.dumps(dialect.document(Refusal(fault, status, request_id))).encode("ascii"),
        status_code=status,
        media_type=dialect.media_type,
        headers={**fault_headers(fault, status), **(headers or {})},
    )


def fault_headers(fault: errors.Fault, status: int) -> dict[str, str]:
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(fault.retry_after_s or 1)))
    return headers


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every refusal, each path's in its dialect; unexpected exceptions are `RequestContext`'s."""
    app.add_exception_handler(errors.Fault, _on_fault)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


def _respond(request: Request, fault: errors.Fault, headers: Mapping[str, str] | None = None) -> Response:
    return problem_response(fault, request_id_of(request.scope), headers, dialect_of(request.scope["path"]))


async def _on_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.Fault)
    return _respond(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = FAULT_OF_STATUS.get(error.status_code, errors.InternalFault)
    headers = dict(error.headers or {})
    if kind is errors.MethodNotAllowed:
        headers["Allow"] = ", ".join(allowed_methods(request))
    detail = _detail_of(kind, request, headers)
    return _respond(request, kind(detail or str(error.detail)), headers)


def _detail_of(kind: type[errors.Fault], request: Request, headers: Mapping[str, str]) -> str:
    path = request.url.path[:MAX_PATH_SHOWN]
    if kind is errors.RouteNotFound:
        return f"there is no route {request.method} {path}: the routes are listed at /docs"
    if kind is errors.MethodNotAllowed:
        return f"{path} does not take {request.method}, allowed: {headers['Allow']}"
    if kind is errors.MalformedJson:
        return "the body cannot be parsed: send valid JSON in UTF-8"
    if kind is errors.PayloadTooLarge:
        return f"the body of {request.headers.get('content-length', 'unknown')} bytes is larger than this route takes"
    return ""


def allowed_methods(request: Request) -> list[str]:
    """Every method that some route takes on this path (starlette names only those of the first route)."""
    methods = ("GET", "PUT", "POST", "DELETE", "PATCH")
    return [method for method in methods if _is_routed(request, method)]


def _is_routed(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request, _validation_fault(error))


def _validation_fault(error: RequestValidationError) -> errors.RequestFault:
    problems = problems_of(error.errors())
    if any(problem.kind == "json_invalid" for problem in problems):
        return errors.MalformedJson("the body is not valid JSON: check quotes, commas and brackets")
    shown = [_shown(problem) for problem in problems[:5]]
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return errors.InvalidRequest("; ".join(shown) + more)


def _shown(problem: Problem) -> str:
    """Of what stands in the address the value too: inputs and keys are never there."""
    is_in_address = problem.parts[0] in ("path", "query") and problem.kind != "missing"
    seen = f"; seen {str(problem.seen)[:MAX_SHOWN]!a}" if is_in_address else ""
    return f"{problem.place}: {problem.sentence}{seen}"
