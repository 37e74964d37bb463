"""Prediction routes: one adapter, several at once, JSON Lines. Knows HTTP; the work is done elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from prefixrack import errors
from prefixrack.types import FanOutResponse, PredictResponse
from prefixrack_server import bulk
from prefixrack_server.auth import tenant_and_ref
from prefixrack_server.config import HttpConfig
from prefixrack_server.documentation import FAN_OUT_BODY, PREDICT_BODY, PREDICT_PROBLEMS
from prefixrack_server.envelope import check_routing_key, parse_fan_out, parse_predict, read_body, to_json
from prefixrack_server.predict import Call
from prefixrack_server.quotas import Allowance
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.rollouts import Route
from prefixrack_server.request_context import add_headers, request_id_of
from prefixrack_server.services import Services, services_of

ROUTING_HEADER = "x-routing-key"
TIMEOUT_HEADER = "x-request-timeout-ms"
JSON = "application/json"


class BareRoute(APIRoute):
    """A route whose function reads the request itself: FastAPI documents it and has no part in its answer.

    Its body reading and its dependencies would cost a short request a tenth of its time.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


router = APIRouter(tags=["predict"], route_class=BareRoute)


# `:path` so that a slash in a name is refused as a name, not as a missing route.
@router.post(
    "/v1/{ref:path}/predict", response_model=PredictResponse, responses=PREDICT_PROBLEMS, openapi_extra=PREDICT_BODY
)
async def predict(request: Request) -> Response:
    """Answer one input or a list of them with the adapter `name`, `name@alias` or `name@7`."""
    services = services_of(request)
    allowance = await admit(request, services)
    principal = allowance.principal
    route = await resolve(services, principal, request.path_params["ref"])
    key = routing_key(request)
    media_type = check_media_type(request, (JSON, *bulk.MEDIA_TYPES))
    limits = services.config.limits
    timeout_s = requested_timeout_s(request, services.config.http, is_bulk=media_type != JSON)
    if media_type != JSON:
        folder = services.config.registry.spool_dir
        version, role = route.choose(key)
        call, note = new_call(request, allowance, timeout_s), services.rollouts.note_of(route, version, role)
        return bulk.BulkAnswer(request, version, services.predictor, call, limits, folder, note)
    body = await read_body(request, limits.max_body_bytes)
    call = new_call(request, allowance, timeout_s)
    envelope = parse_predict(body, limits.max_inputs)
    answer = await services.rollouts.predict(route, envelope.routing_key or key, envelope, call)
    return Response(to_json(answer), media_type=JSON)


@router.post("/v1/predict", response_model=FanOutResponse, responses=PREDICT_PROBLEMS, openapi_extra=FAN_OUT_BODY)
async def fan_out(request: Request) -> Response:
    """Send the same inputs through several adapters at once, in one pack."""
    services = services_of(request)
    allowance = await admit(request, services)
    principal = allowance.principal
    check_media_type(request, (JSON,))
    limits = services.config.limits
    timeout_s = requested_timeout_s(request, services.config.http)
    body = await read_body(request, limits.max_body_bytes)
    call = new_call(request, allowance, timeout_s)
    refs, envelope = parse_fan_out(body, limits.max_inputs, limits.max_body_bytes)
    key = envelope.routing_key or routing_key(request)
    routes = {ref: await _resolve_or_fault(services, principal, ref) for ref in refs}
    return Response(to_json(await services.rollouts.fan_out(routes, key, envelope, call)), media_type=JSON)


async def admit(request: Request, services: Services) -> Allowance:
    """What the caller may still have computed; the request counts from here, whatever comes of it."""
    principal = await services.gate.admit(request.headers, "predict")
    allowance = services.quotas.allowance(principal)
    if allowance.is_limited:
        add_headers(request.scope, allowance.headers)
        await allowance.take_request()
    return allowance


async def resolve(services: Services, principal: Principal, ref: str) -> Route:
    """Bind a reference to its versions: from here on the request is about digests. Raises the registry's faults."""
    tenant, name = tenant_and_ref(principal, ref)
    return await services.registry.route(tenant, name)


async def _resolve_or_fault(services: Services, principal: Principal, ref: str) -> Route | errors.Fault:
    try:
        return await resolve(services, principal, ref)
    except errors.RequestFault as fault:
        return fault


def routing_key(request: Request) -> str | None:
    """Whose request it is, for a canary: the same key goes to the same version. Raises InvalidRequest."""
    key = request.headers.get(ROUTING_HEADER)
    if key is not None:
        check_routing_key(key)
    return key


def check_media_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The body's media type; none counts as JSON. Raises UnsupportedMediaType."""
    seen = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if seen not in allowed:
        raise errors.UnsupportedMediaType(
            f"Content-Type is {seen[:80]!a}, allowed are {', '.join(allowed)}: set the header to what the body is"
        )
    return seen


def new_call(request: Request, allowance: Allowance, timeout_s: float | None) -> Call:
    """Time counts from here: made after the body is there, whose length in seconds is the caller's affair."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return Call(allowance, request_id_of(request.scope), deadline, request.is_disconnected, time.perf_counter())


def requested_timeout_s(request: Request, config: HttpConfig, is_bulk: bool = False) -> float | None:
    """Seconds allowed, None for a bulk body: its caller sees it going on.

    Raises InvalidRequest for a header that is not a number of milliseconds in range.
    """
    seen = request.headers.get(TIMEOUT_HEADER)
    if seen is None:
        return None if is_bulk else config.request_timeout_s
    max_ms = int(config.max_timeout_s * 1000)
    if not (seen.isascii() and seen.isdigit() and len(seen) <= 12 and 1 <= int(seen) <= max_ms):
        raise errors.InvalidRequest(
            f"X-Request-Timeout-Ms is {seen[:40]!a}: a whole number from 1 to {max_ms} is allowed"
        )
    return int(seen) / 1000
