"""Health and metrics: for probes and Prometheus, without a key."""

from __future__ import annotations

import math
import time

from fastapi import APIRouter, Request, Response

from prefixrack.errors import NotReady
from prefixrack_server.documentation import NO_KEY, problems
from prefixrack_server.metrics import CONTENT_TYPE
from prefixrack_server.services import Services, services_of

router = APIRouter(tags=["health"])


@router.get("/health/live", responses=problems(503), openapi_extra=NO_KEY)
async def live(request: Request) -> dict[str, bool]:
    """Whether the engine's loop still turns; if not, the process should be restarted."""
    services = services_of(request)
    age_s, max_age_s = time.monotonic() - services.engine.stats().heartbeat, services.config.engine.max_silence_s
    if math.isinf(age_s):
        raise NotReady("the engine has ended: the server must be started again")
    if age_s > max_age_s:
        raise NotReady(
            f"the engine's last sign of life is {age_s:.1f} s old, allowed are {max_age_s:g} s: restart it, or raise "
            "engine.max_silence_s where packs take that long"
        )
    return {"live": True}


@router.get("/health/ready", responses=problems(503), openapi_extra=NO_KEY)
async def ready(request: Request) -> dict[str, bool]:
    """Whether requests should be sent here now.

    `registry` says whether its database answered the last time. Without it the server answers by what it knows, and so
    would its neighbours: that is no reason to send requests elsewhere.
    """
    services = services_of(request)
    reason = _why_not_ready(services)
    if reason:
        raise NotReady(f"the server is not ready: {reason}", retry_after_s=1)
    return {"ready": True, "registry": not services.registry.is_away}


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    return Response(services_of(request).metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _why_not_ready(services: Services) -> str:
    if services.phase.is_draining:
        return "it is shutting down"
    if not services.phase.is_started:
        return "it is starting"
    if not services.engine.stats().ready:
        return "the engine takes no work"
    return ""
