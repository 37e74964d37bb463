"""Tenant routes: who may have adapters and keys, with what share and quotas. For admins of all tenants."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from prefixrack.types import QuotaChange, TenantInfo, TenantPage
from prefixrack_server.auth import Admin, TenantAdmin
from prefixrack_server.documentation import ADMIN_PROBLEMS
from prefixrack_server.routes.paging import Limit
from prefixrack_server.services import services_of
from prefixrack_server.small_body import body_of, read_model

router = APIRouter(prefix="/admin/v1/tenants", tags=["tenants"], responses=ADMIN_PROBLEMS)


class TenantChange(BaseModel):
    """Body of `PATCH /admin/v1/tenants/{tenant}`: what is named is set, the rest stays.

    `weight` is the tenant's share of a busy server against that of others. A disabled tenant's keys are refused.
    """

    model_config = ConfigDict(extra="forbid")

    weight: Annotated[float, Field(gt=0, le=1000, strict=True)] = 1.0
    quotas: QuotaChange = QuotaChange()
    adapters: Annotated[list[str], Field(examples=[["team-a.*"]])] = []

    def columns(self) -> dict[str, Any]:
        """What the body named, as the registry stores it."""
        named = self.model_dump(exclude_unset=True, include={"weight", "adapters"})
        return named | self.quotas.model_dump(exclude_unset=True)


class NewTenant(TenantChange):
    """Body of `POST /admin/v1/tenants`."""

    name: Annotated[str, Field(max_length=63)]


class TenantPatch(TenantChange):
    disabled: Annotated[bool, Field(strict=True)] | None = None


@router.post("", status_code=201, openapi_extra=body_of(NewTenant))
async def create_tenant(request: Request, caller: Admin) -> TenantInfo:
    """Make a tenant. Its first key is made with `tenant` in the body of `POST /admin/v1/keys`."""
    body = await read_model(request, NewTenant)
    return await services_of(request).registry.create_tenant(body.name, body.columns(), by=caller.actor)


@router.get("")
async def list_tenants(request: Request, caller: Admin, limit: Limit = 100, cursor: str | None = None) -> TenantPage:
    """All tenants in order of their names."""
    tenants, next_cursor = await services_of(request).registry.list_tenants(limit, cursor)
    return TenantPage(data=tenants, next_cursor=next_cursor)


@router.get("/{tenant}")
async def show_tenant(request: Request, tenant: str, caller: TenantAdmin) -> TenantInfo:
    """One tenant; a tenant's own admin may see it too."""
    return await services_of(request).registry.get_tenant(caller.owner(tenant))


@router.patch("/{tenant}", openapi_extra=body_of(TenantPatch))
async def change_tenant(request: Request, tenant: str, caller: Admin) -> TenantInfo:
    """Change weight, quotas or patterns, disable a tenant or enable it again. Requests in flight finish."""
    body = await read_model(request, TenantPatch)
    return await services_of(request).registry.change_tenant(tenant, body.columns(), body.disabled, by=caller.actor)
