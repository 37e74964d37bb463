"""Who is calling and what they may do: an API key to a principal, a scope to yes or no. Knows no route."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Final, NamedTuple

from fastapi import Depends, Request
from starlette.datastructures import Headers

from prefixrack.errors import Forbidden, MissingKey
from prefixrack_server.config import AuthMode, is_loopback
from prefixrack_server.oidc import TokenVerifier, is_token
from prefixrack_server.registry.keys import ADMIN_SCOPES
from prefixrack_server.registry.names import check_name, check_tenant, parse_ref, unknown_adapter
from prefixrack_server.registry.principal import NOBODY, Actor, Principal
from prefixrack_server.registry.registry import Registry
from prefixrack_server.registry.tenants import unknown_tenant
from prefixrack_server.request_context import request_id_of
from prefixrack_server.services import services_of

DEFAULT_TENANT: Final = "default"
EVERYONE: Final = Principal(key_id=NOBODY.key_id, tenant=DEFAULT_TENANT, scopes=frozenset({"admin"}))
SEND_KEY: Final = (
    "send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`; the `prefixrack` command and the SDK take it from "
    "PREFIXRACK_API_KEY"
)


class Gate:
    """Lives as long as the process. With auth "none" everybody on this machine is the default tenant's admin."""

    def __init__(
        self,
        registry: Registry,
        mode: AuthMode,
        cors_origins: Collection[str] = (),
        verifier: TokenVerifier | None = None,
    ) -> None:
        self._registry = registry
        self._mode = mode
        self._cors_origins = cors_origins
        self._verifier = verifier

    async def admit(self, headers: Headers, scope: str | None) -> Principal:
        """The principal of the request's key or token. Raises MissingKey, InvalidKey, or Forbidden without `scope`.

        None is for what every key may have.
        """
        if self._mode == "none":
            check_local(headers, self._cors_origins)
            return EVERYONE
        secret = credential(headers)
        if self._verifier is not None and is_token(secret):
            principal = await self._registry.authenticate_token(secret, self._verifier.verify)
        else:
            principal = await self._registry.authenticate(secret)
        if scope is not None:
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
    """Raises Forbidden, naming the scope that is missing. What is for admins of all is for no tenant's admin."""
    implied_by = {"admin"} if scope == "admin" else ADMIN_SCOPES
    if scope not in principal.scopes and not implied_by & principal.scopes:
        raise Forbidden(
            f"this needs the scope {scope!r}, {principal.key_id} has {', '.join(sorted(principal.scopes)) or 'none'}: "
            "use another key, or ask an administrator for one"
        )


def tenant_and_ref(principal: Principal, ref: str) -> tuple[str, str]:
    """Whose adapter `name` or `tenant:name` is, and the reference without the tenant.

    Raises AdapterNotFound for whatever this principal must not use, without looking whether it is there.
    """
    if ":" not in ref and not principal.patterns:
        return principal.tenant, ref  # every request of most keys: nothing to check that the registry does not
    tenant, delimiter, rest = ref.rpartition(":")
    owner = check_tenant(tenant) if delimiter else principal.tenant
    is_mine = owner == principal.tenant or "admin" in principal.scopes
    if not principal.may_use(parse_ref(rest).name) or not is_mine:
        raise unknown_adapter(ref)
    return owner, rest


class Caller(NamedTuple):
    """The principal of an administration request, and whom the audit log will name."""

    principal: Principal
    actor: Actor

    @property
    def tenant(self) -> str:
        return self.principal.tenant

    def adapter(self, name: str) -> tuple[str, str]:
        """Tenant and name of the adapter in a path, `name` or, for an admin of all tenants, `tenant:name`."""
        return tenant_and_ref(self.principal, name)

    def new_adapter(self, name: str) -> tuple[str, str]:
        """`adapter` for a name that need not exist: where it may not be made, that is said. Raises Forbidden."""
        if ":" not in name and not self.principal.may_use(check_name(name)):
            allowed = " and ".join(", ".join(patterns) for patterns in self.principal.patterns)
            raise Forbidden(f"the key {self.principal.key_id} is limited to adapters {allowed}: choose such a name")
        return self.adapter(name)

    def owner(self, tenant: str | None) -> str:
        """The tenant that is asked for, by default the caller's own.

        Raises TenantNotFound for others than the own, whether they are there or not, unless for an admin of all.
        Raises InvalidName for what can be no tenant: it goes into headers and databases from here.
        """
        if tenant is None or tenant == self.tenant:
            return self.tenant
        if "admin" not in self.principal.scopes:
            raise unknown_tenant(tenant)
        return check_tenant(tenant)


def can(scope: str) -> Any:
    """A FastAPI dependency: the caller, if its principal has `scope`."""

    async def admitted(request: Request) -> Caller:
        principal = await services_of(request).gate.admit(request.headers, scope)
        return Caller(principal, Actor(principal.key_id, request_id_of(request.scope)))

    return Depends(admitted)


Reader = Annotated[Caller, can("adapters:read")]
Writer = Annotated[Caller, can("adapters:write")]
Promoter = Annotated[Caller, can("alias:promote")]
TenantAdmin = Annotated[Caller, can("tenant:admin")]
Admin = Annotated[Caller, can("admin")]
