"""Who the caller is to this server, and what its key lets it do. Needs a key, and no scope of it."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from prefixrack.types import WhoAmI
from prefixrack_server.auth import EVERYONE
from prefixrack_server.documentation import problems
from prefixrack_server.oidc import ACTOR_PREFIX
from prefixrack_server.registry.principal import Principal
from prefixrack_server.services import services_of

router = APIRouter(tags=["adapters"], responses=problems(401, 403))


@router.get("/v1/whoami")
async def who_am_i(request: Request) -> WhoAmI:
    """Tenant, scopes, limits and expiry of the key or token that the request came with."""
    principal = await services_of(request).gate.admit(request.headers, scope=None)
    return WhoAmI(
        tenant=principal.tenant,
        key_id=principal.key_id,
        key_name=principal.key_name,
        authenticated_by=authenticated_by(principal),
        scopes=sorted(principal.scopes),
        expires_at=principal.expires_at,
        adapter_patterns=[list(patterns) for patterns in principal.patterns],
        weight=principal.weight,
        quotas=principal.quotas,
    )


def authenticated_by(principal: Principal) -> Literal["key", "token", "none"]:
    if principal is EVERYONE:
        return "none"
    return "token" if principal.key_id.startswith(ACTOR_PREFIX) else "key"
