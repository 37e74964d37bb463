"""OpenAI's list of models: the adapters that a key may use. Knows no inference."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response

from prefixrack.types import AdapterSummary
from prefixrack_server.auth import tenant_and_ref
from prefixrack_server.compat.catalogue import SCOPE, all_adapters
from prefixrack_server.compat.documentation import IN_OPENAI_MODEL, OPENAI_MODEL, OPENAI_MODELS, openai
from prefixrack_server.envelope import to_json
from prefixrack_server.routes.predict import JSON, BareRoute
from prefixrack_server.services import Services, services_of

router = APIRouter(tags=["OpenAI"], route_class=BareRoute)


@router.get("/v1/models", responses=openai(OPENAI_MODELS))
async def list_models(request: Request) -> Response:
    """Every adapter that the key may use, whatever its task."""
    services = services_of(request)
    principal = await services.gate.admit(request.headers, SCOPE)
    models = [
        _model(services, principal.tenant, adapter.name, adapter)
        for adapter in await all_adapters(services.registry, principal)
    ]
    return Response(to_json({"object": "list", "data": models}), media_type=JSON)


@router.get("/v1/models/{ref:path}", responses=openai(OPENAI_MODEL), openapi_extra=IN_OPENAI_MODEL)
async def show_model(request: Request) -> Response:
    """`name`, `name@alias` or `name@7`; the answer's `id` is what was asked for."""
    services = services_of(request)
    principal = await services.gate.admit(request.headers, SCOPE)
    asked = request.path_params["ref"]
    tenant, ref = tenant_and_ref(principal, asked)
    version = await services.registry.resolve(tenant, ref)
    adapter = await services.registry.get_adapter(tenant, version.name)
    return Response(to_json(_model(services, tenant, asked, adapter)), media_type=JSON)


def _model(services: Services, tenant: str, ref: str, adapter: AdapterSummary) -> dict[str, Any]:
    return {
        "id": ref,
        "object": "model",
        "created": int(datetime.fromisoformat(adapter.created_at).timestamp()),
        "owned_by": tenant,
        "parent": services.spec.model_id,
    }
