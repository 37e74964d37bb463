"""The catalogue: which adapters a key may use, and how each is used."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from prefixrack.types import AdapterDetail, AdapterPage
from prefixrack_server.auth import Reader
from prefixrack_server.documentation import ADMIN_PROBLEMS
from prefixrack_server.routes.paging import Limit, TenantName
from prefixrack_server.services import services_of

router = APIRouter(tags=["adapters"], responses=ADMIN_PROBLEMS)


@router.get("/v1/adapters")
async def list_adapters(
    request: Request,
    caller: Reader,
    limit: Limit = 100,
    cursor: str | None = None,
    search: Annotated[str | None, Query(max_length=200)] = None,
    tenant: TenantName = None,
) -> AdapterPage:
    """The adapters that the key may use in order of their names; an admin of all may name another `tenant`."""
    registry, patterns = services_of(request).registry, caller.principal.patterns
    adapters, next_cursor = await registry.list_adapters(caller.owner(tenant), limit, cursor, search, patterns)
    return AdapterPage(data=adapters, next_cursor=next_cursor)


@router.get("/v1/adapters/{ref:path}")
async def show_adapter(request: Request, caller: Reader) -> AdapterDetail:
    """Input schema, example, labels and limits of `name`, `name@alias` or `name@7`."""
    services = services_of(request)
    tenant, ref = caller.adapter(request.path_params["ref"])
    version = await services.registry.resolve(tenant, ref)
    summary = await services.registry.get_adapter(tenant, version.name)
    task, manifest = services.predictor.task(version), version.manifest
    bound = {"task": manifest.task, "version": version.number, "digest": version.digest, "labels": manifest.labels}
    return AdapterDetail(
        **(summary.model_dump() | bound),
        input_format=manifest.input_format,
        problem=manifest.decoding.problem,
        no_answer=manifest.decoding.no_answer,
        input_schema=task.input_schema(),
        example=task.example(),
        max_tokens=task.max_tokens,
        prefix_kind=manifest.prefix.kind,
        prefix_len=manifest.prefix.prefix_len,
        metrics=[metric.model_dump(exclude_none=True) for metric in manifest.metrics],
        licence=manifest.licence,
    )
