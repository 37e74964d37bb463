"""Who is calling and what they may do: an API key to a principal, a scope to yes or no. Knows no route."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from starlette.datastructures import Headers

from prefixrack.errors import Forbidden, MissingKey
from prefixrack_server.config import AuthMode, is_loopback
from prefixrack_server.registry.keys import Principal
from prefixrack_server.registry.registry import Registry
from prefixrack_server.services import services_of

DEFAULT_TENANT: Final = "default"
# A key with one of these may do everything in its tenant; "admin" everything in every tenant.
ADMIN_SCOPES: Final = frozenset({"tenant:admin", "admin"})
EVERYONE: Final = Principal(key_id="none", tenant=DEFAULT_TENANT, scopes=frozenset({"admin"}))
SEND_KEY: Final = "send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`"


class Gate:
    """Lives as long as the process. With auth "none" everybody on this machine is the default tenant's admin."""

    def __init__(self, registry: Registry, mode: AuthMode, cors_origins: Collection[str] = ()) -> None:
        self._registry = registry
        self._mode = mode
        self._cors_origins = cors_origins

    async def admit(self, headers: Headers, scope: str) -> Principal:
        """The principal of the request's key. Raises MissingKey, InvalidKey, or Forbidden without `scope`."""
        if self._mode == "none":
            check_local(headers, self._cors_origins)
            return EVERYONE
        principal = await self._registry.authenticate(credential(headers))
        check_scope(principal, scope)
        return principal


def check_local(headers: Headers, cors_origins: Collection[str]) -> None:
    """Without keys, a page of any web site could use the server through the browser of somebody on this machine.

    Raises Forbidden for another site's page, by its Origin or, where its name was pointed at this machine, by Host.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_loopback(host_name(host)):
        raise Forbidden(
            f"Host is {host[:80]!a}, without keys (auth 'none') loopback names are allowed (127.0.0.1, ::1, "
            "localhost): use one, or serve with auth 'keys'"
        )
    if (
        origin is None
        or origin in cors_origins
        or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
    ):
        return
    raise Forbidden(
        f"Origin is {origin[:80]!a}, without keys (auth 'none') pages of this server only are allowed: serve with auth "
        "'keys', or name the origin in http.cors_origins"
    )


def host_name(host: str) -> str:
    """The name or address in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def credential(headers: Headers) -> str:
    """The secret as sent. Raises MissingKey."""
    authorization = headers.get("authorization")
    if authorization is not None:
        kind, _, secret = authorization.partition(" ")
        if kind.lower() == "bearer" and secret.strip():
            return secret.strip()
        raise MissingKey(f"the Authorization header is not a bearer key: {SEND_KEY}")
    secret = headers.get("x-api-key", "")
    if not secret:
        raise MissingKey(f"the request has no API key: {SEND_KEY}")
    return secret


def check_scope(principal: Principal, scope: str) -> None:
    """Raises Forbidden, naming the scope that is missing."""
    if scope not in principal.scopes and not ADMIN_SCOPES & set(principal.scopes):
        raise Forbidden(
            f"this needs the scope {scope!r}, the key {principal.key_id} has {', '.join(sorted(principal.scopes))}: "
            "use another key, or ask an administrator for one"
        )


def tenant_and_ref(principal: Principal, ref: str) -> tuple[str, str]:
    """Split `tenant:name`, which only an admin of all tenants may say. Raises Forbidden."""
    tenant, delimiter, rest = ref.partition(":")
    if not delimiter:
        return principal.tenant, ref
    if tenant != principal.tenant and "admin" not in principal.scopes:
        raise Forbidden(f"the key {principal.key_id} belongs to tenant {principal.tenant!r}: leave the tenant out")
    return tenant, rest


def can(scope: str) -> Any:
    """A FastAPI dependency: the caller's principal, if it has `scope`."""

    async def admitted(request: Request) -> Principal:
        return await services_of(request).gate.admit(request.headers, scope)

    return Depends(admitted)


Reader = Annotated[Principal, can("adapters:read")]
Writer = Annotated[Principal, can("adapters:write")]
Promoter = Annotated[Principal, can("alias:promote")]
TenantAdmin = Annotated[Principal, can("tenant:admin")]
