"""API key routes. A secret is shown once, in the answer that makes it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefixrack.errors import Forbidden
from prefixrack.types import KeyInfo, KeyPage
from prefixrack_server.auth import TenantAdmin
from prefixrack_server.documentation import ADMIN_PROBLEMS
from prefixrack_server.registry.keys import ADMIN_SCOPES
from prefixrack_server.registry.principal import Principal
from prefixrack_server.routes.paging import Limit, TenantName
from prefixrack_server.services import services_of
from prefixrack_server.small_body import body_of, read_model

MAX_OVERLAP_S: Final = 366 * 86400

router = APIRouter(prefix="/admin/v1/keys", tags=["keys"], responses=ADMIN_PROBLEMS)


class NewKey(BaseModel):
    """Body of `POST /admin/v1/keys`. `expires_at` needs a time zone; without it the key lasts until it is revoked.

    `adapters` are patterns of the names that the key is limited to; `tenant` is for admins of all tenants; `name` says
    to people which key it is.
    """

    model_config = ConfigDict(extra="forbid")

    scopes: Annotated[list[str], Field(min_length=1, max_length=16)]
    expires_at: AwareDatetime | None = None
    adapters: Annotated[list[str], Field(examples=[["team-a.*"]])] = []
    tenant: Annotated[str, Field(max_length=63)] | None = None
    name: Annotated[str, Field(max_length=100)] | None = None


@router.post("", status_code=201, response_model_exclude_none=True, openapi_extra=body_of(NewKey))
async def create_key(request: Request, caller: TenantAdmin) -> KeyInfo:
    """Make a key for the caller's tenant, with at most the scopes that the caller may hand on."""
    body = await read_model(request, NewKey)
    _check_may_grant(caller.principal, body.scopes)
    tenant, registry = caller.owner(body.tenant), services_of(request).registry
    return await registry.create_key(
        tenant, body.scopes, body.expires_at, body.adapters, name=body.name, by=caller.actor
    )


@router.get("", response_model_exclude={"data": {"__all__": {"secret"}}})
async def list_keys(
    request: Request, caller: TenantAdmin, limit: Limit = 100, cursor: str | None = None, tenant: TenantName = None
) -> KeyPage:
    """The keys of the caller's tenant that are not revoked, oldest first, without their secrets."""
    keys, next_cursor = await services_of(request).registry.list_keys(caller.owner(tenant), limit, cursor)
    return KeyPage(data=keys, next_cursor=next_cursor)


class KeyRotation(BaseModel):
    """Body of `POST /admin/v1/keys/{key_id}/rotate`. Without `overlap_s` the first key holds until it is revoked."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: Annotated[float, Field(ge=0, le=MAX_OVERLAP_S, strict=True)] | None = None


@router.post("/{key_id}/rotate", status_code=201, response_model_exclude_none=True, openapi_extra=body_of(KeyRotation))
async def rotate_key(request: Request, key_id: str, caller: TenantAdmin, tenant: TenantName = None) -> KeyInfo:
    """Make a second key that may do what this one may, for callers to change to while both hold.

    A key with a successor that holds is not rotated again: revoke the first one, then rotate the second.
    """
    body = await read_model(request, KeyRotation)
    overlap = None if body.overlap_s is None else timedelta(seconds=body.overlap_s)
    is_admin, registry = "admin" in caller.principal.scopes, services_of(request).registry
    return await registry.rotate_key(caller.owner(tenant), key_id, overlap, may_rotate_admins=is_admin, by=caller.actor)


@router.delete("/{key_id}", status_code=204)
async def revoke_key(request: Request, key_id: str, caller: TenantAdmin, tenant: TenantName = None) -> Response:
    """From now on the key is refused. Keys of admins of all tenants are revoked by such admins."""
    is_admin, registry = "admin" in caller.principal.scopes, services_of(request).registry
    await registry.revoke_key(caller.owner(tenant), key_id, may_revoke_admins=is_admin, by=caller.actor)
    return Response(status_code=204)


def _check_may_grant(caller: Principal, scopes: list[str]) -> None:
    """An admin of one tenant cannot make admins of all of them."""
    if "admin" in scopes and "admin" not in caller.scopes:
        raise Forbidden(
            f"the key {caller.key_id} has {', '.join(sorted(caller.scopes))}: it cannot hand on the scope 'admin', "
            f"{', '.join(sorted(ADMIN_SCOPES - {'admin'}))} at most"
        )
