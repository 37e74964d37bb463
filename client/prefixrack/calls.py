"""Every route of the server once: the request it takes and the type it answers. Pure; both clients run these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import httpx2

from prefixrack.bundles import Progress, Upload
from prefixrack.errors import APIConnectionError
from prefixrack.requests import ApiRequest, ask, read, segment, write
from prefixrack.responses import decode
from prefixrack.typed import MANY
from prefixrack.types import (
    AdapterDetail,
    AdapterPage,
    AliasInfo,
    AuditPage,
    FanOutResponse,
    GatesInfo,
    KeyInfo,
    KeyPage,
    PredictResponse,
    ResidencyInfo,
    TenantInfo,
    TenantPage,
    UsagePage,
    VersionDetail,
    VersionInfo,
    VersionPage,
    WhoAmI,
)

T = TypeVar("T")
Item = TypeVar("Item", covariant=True)

PRODUCTION = "production"
KEYS = "/admin/v1/keys"
TENANTS = "/admin/v1/tenants"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    request: ApiRequest
    decode: Callable[[httpx2.Response], T]


class Page(Protocol[Item]):
    """One page of a list; the next one is asked for with `next_cursor`."""

    @property
    def data(self) -> Sequence[Item]: ...

    @property
    def next_cursor(self) -> str | None: ...


def predict(
    adapter: str, inputs: Any, parameters: Mapping[str, Any], routing_key: str | None = None
) -> Call[PredictResponse]:
    body = _predict_body(inputs, parameters) | ({} if routing_key is None else {"routing_key": routing_key})
    num_inputs = len(inputs) if isinstance(inputs, MANY) else 1
    return Call(ask(f"/v1/{segment(adapter)}/predict", body), partial(_decode_predict, num_inputs))


def fan_out(adapters: Sequence[str], inputs: Any, parameters: Mapping[str, Any]) -> Call[FanOutResponse]:
    body = {"adapters": list(adapters)} | _predict_body(inputs, parameters)
    return Call(ask("/v1/predict", body), partial(decode, FanOutResponse))


def list_adapters(
    limit: int | None, search: str | None, cursor: str | None, tenant: str | None = None
) -> Call[AdapterPage]:
    request = read("/v1/adapters", limit=limit, search=search, cursor=cursor, tenant=tenant)
    return Call(request, partial(decode, AdapterPage))


def get_adapter(ref: str) -> Call[AdapterDetail]:
    return Call(read(f"/v1/adapters/{segment(ref)}"), partial(decode, AdapterDetail))


def list_versions(name: str, limit: int | None, cursor: str | None) -> Call[VersionPage]:
    request = read(f"{_admin(name)}/versions", limit=limit, cursor=cursor)
    return Call(request, partial(decode, VersionPage))


def get_version(name: str, version: int) -> Call[VersionDetail]:
    return Call(read(_version(name, version)), partial(decode, VersionDetail))


def push(name: str, folder: Path, progress: Progress | None, idempotency_key: str) -> Call[VersionInfo]:
    """Raises MalformedBundle before anything is sent when the folder is no bundle."""
    upload = Upload(folder, progress=progress)
    headers = {"Idempotency-Key": idempotency_key}
    return Call(write("POST", f"{_admin(name)}/versions", headers=headers, upload=upload), partial(decode, VersionInfo))


def push_source(
    name: str, source: str, task: str | None, labels: Sequence[str], idempotency_key: str
) -> Call[VersionInfo]:
    headers = {"Idempotency-Key": idempotency_key}
    body = {"source": source} | ({} if task is None else {"task": task}) | ({"labels": list(labels)} if labels else {})
    request = write("POST", f"{_admin(name)}/versions", body, headers=headers)
    return Call(request, partial(decode, VersionInfo))


def download(name: str, version: int) -> Call[None]:
    return Call(read(f"{_version(name, version)}/bundle"), _nothing)


def delete_version(name: str, version: int) -> Call[None]:
    return Call(write("DELETE", _version(name, version)), _nothing)


def delete_adapter(name: str) -> Call[None]:
    return Call(write("DELETE", _admin(name)), _nothing)


def get_alias(name: str, alias: str) -> Call[AliasInfo]:
    return Call(read(_alias(name, alias)), partial(decode, AliasInfo))


def set_alias(name: str, alias: str, version: int, if_match: str | None) -> Call[AliasInfo]:
    headers = {} if if_match is None else {"If-Match": if_match}
    request = write("PUT", _alias(name, alias), {"version": version}, headers=headers)
    return Call(request, partial(decode, AliasInfo))


def promotion(
    name: str, alias: str, version: int, current: AliasInfo | None, require: str | Sequence[str] = ()
) -> Call[AliasInfo]:
    """Move an alias that was just read (None: there was none), unless somebody else moved it meanwhile.

    The server moves it only if the version's manifest claims what is required.
    """
    headers = {"If-None-Match": "*"} if current is None else {"If-Match": current.etag}
    required = [require] if isinstance(require, str) else list(require)
    body = {"version": version} | ({"require": required} if required else {})
    return Call(write("PUT", _alias(name, alias), body, headers=headers), partial(decode, AliasInfo))


def rollout(
    name: str, current: AliasInfo, canary: tuple[int, float] | None = None, shadow: int | None = None
) -> Call[AliasInfo]:
    """Leave an alias that was just read where it stands, with a canary (version and share) or a shadow beside it."""
    body: dict[str, Any] = {"version": current.version}
    if canary is not None:
        body["canary"] = {"version": canary[0], "share": canary[1]}
    if shadow is not None:
        body["shadow"] = shadow
    return Call(
        write("PUT", _alias(name, current.alias), body, headers={"If-Match": current.etag}), partial(decode, AliasInfo)
    )


def rollback(name: str, alias: str) -> Call[AliasInfo]:
    """One request, never sent twice: a second one would go forward again."""
    return Call(write("POST", f"{_alias(name, alias)}/rollback"), partial(decode, AliasInfo))


def get_gates(name: str, alias: str) -> Call[GatesInfo]:
    return Call(read(f"{_alias(name, alias)}/gates"), partial(decode, GatesInfo))


def set_gates(name: str, alias: str, require: Sequence[str]) -> Call[GatesInfo]:
    request = write("PUT", f"{_alias(name, alias)}/gates", {"require": list(require)})
    return Call(request, partial(decode, GatesInfo))


def delete_alias(name: str, alias: str) -> Call[None]:
    return Call(write("DELETE", _alias(name, alias)), _nothing)


def get_residency(name: str, version: int) -> Call[ResidencyInfo]:
    return Call(read(f"{_version(name, version)}/residency"), partial(decode, ResidencyInfo))


def set_residency(name: str, version: int, keep_resident: bool) -> Call[ResidencyInfo]:
    request = write("PUT", f"{_version(name, version)}/residency", {"keep_resident": keep_resident})
    return Call(request, partial(decode, ResidencyInfo))


def who_am_i() -> Call[WhoAmI]:
    return Call(read("/v1/whoami"), partial(decode, WhoAmI))


def create_key(
    scopes: Sequence[str],
    expires_at: str | None,
    adapters: Sequence[str] = (),
    tenant: str | None = None,
    name: str | None = None,
) -> Call[KeyInfo]:
    options = {"expires_at": expires_at, "adapters": list(adapters) or None, "tenant": tenant, "name": name}
    request = write("POST", KEYS, {"scopes": list(scopes)} | _given(options))
    return Call(request, partial(decode, KeyInfo))


def list_keys(limit: int | None, cursor: str | None, tenant: str | None = None) -> Call[KeyPage]:
    return Call(read(KEYS, limit=limit, cursor=cursor, tenant=tenant), partial(decode, KeyPage))


def rotate_key(key_id: str, overlap_s: float | None, tenant: str | None = None) -> Call[KeyInfo]:
    body = _given({"overlap_s": overlap_s})
    request = write("POST", f"{KEYS}/{segment(key_id)}/rotate", body, query=_given({"tenant": tenant}))
    return Call(request, partial(decode, KeyInfo))


def revoke_key(key_id: str, tenant: str | None = None) -> Call[None]:
    return Call(write("DELETE", f"{KEYS}/{segment(key_id)}", query=_given({"tenant": tenant})), _nothing)


def create_tenant(name: str, settings: Mapping[str, Any]) -> Call[TenantInfo]:
    return Call(write("POST", TENANTS, {"name": name} | _given(settings)), partial(decode, TenantInfo))


def list_tenants(limit: int | None, cursor: str | None) -> Call[TenantPage]:
    return Call(read(TENANTS, limit=limit, cursor=cursor), partial(decode, TenantPage))


def get_tenant(name: str) -> Call[TenantInfo]:
    return Call(read(f"{TENANTS}/{segment(name)}"), partial(decode, TenantInfo))


def update_tenant(name: str, settings: Mapping[str, Any]) -> Call[TenantInfo]:
    return Call(write("PATCH", f"{TENANTS}/{segment(name)}", _given(settings)), partial(decode, TenantInfo))


def list_audit(
    limit: int | None, cursor: str | None, tenant: str | None, action: str | None, adapter: str | None = None
) -> Call[AuditPage]:
    request = read("/admin/v1/audit", limit=limit, cursor=cursor, tenant=tenant, action=action, adapter=adapter)
    return Call(request, partial(decode, AuditPage))


def list_usage(
    limit: int | None, cursor: str | None, tenant: str | None, since: str | None, until: str | None
) -> Call[UsagePage]:
    request = read("/admin/v1/usage", limit=limit, cursor=cursor, tenant=tenant, since=since, until=until)
    return Call(request, partial(decode, UsagePage))


def metrics() -> Call[str]:
    """In Prometheus' text format; asked once, as a probe is."""
    request = ApiRequest("GET", "/metrics", headers={"Accept": "text/plain"}, can_retry=False)
    return Call(request, lambda response: response.text)


def live() -> Call[None]:
    """A probe is asked once: an answer that needed retries would not say how the server is now."""
    return Call(read("/health/live", can_retry=False), _nothing)


def ready() -> Call[None]:
    return Call(read("/health/ready", can_retry=False), _nothing)


def _admin(name: str) -> str:
    return f"/admin/v1/adapters/{segment(name)}"


def _version(name: str, version: int) -> str:
    return f"{_admin(name)}/versions/{int(version)}"


def _alias(name: str, alias: str) -> str:
    return f"{_admin(name)}/aliases/{segment(alias)}"


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is not None: the server's defaults are the server's."""
    return {name: value for name, value in options.items() if value is not None}


def _predict_body(inputs: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A tuple of inputs is written as a list, as JSON has it: it counts as many inputs, too."""
    given = _given(parameters)
    return {"inputs": inputs} | ({"parameters": given} if given else {})


def _decode_predict(num_inputs: int, response: httpx2.Response) -> PredictResponse:
    answer = decode(PredictResponse, response)
    if len(answer.outputs) != num_inputs:
        raise APIConnectionError(
            f"{response.request.url} answered {len(answer.outputs)} outputs for {num_inputs} inputs: "
            "outputs cannot be told apart, so none is used"
        )
    return answer


def _nothing(_response: httpx2.Response) -> None:
    return None
