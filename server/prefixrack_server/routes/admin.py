"""Administration routes: upload, versions, aliases, residency. Each has a scope of its own; none is on the hot path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from prefixrack.errors import InvalidRequest, RegistryReadOnly, UnsupportedMediaType
from prefixrack.types import AliasInfo, GatesInfo, ResidencyInfo, VersionDetail, VersionInfo, VersionPage, Wire
from prefixrack_server.archive import read_multipart, read_tar
from prefixrack_server.auth import Caller, Promoter, Reader, TenantAdmin, Writer
from prefixrack_server.documentation import ADMIN_PROBLEMS, ALIAS_PROBLEMS, BUNDLE_ANSWER, UPLOAD_BODY, UPLOAD_PROBLEMS
from prefixrack_server.registry.aliases import Target
from prefixrack_server.registry.names import check_name
from prefixrack_server.registry.registry import Version
from prefixrack_server.routes.paging import Limit
from prefixrack_server.services import Services, services_of
from prefixrack_server.small_body import body_of, read_model
from prefixrack_server.tar_stream import tar_blocks, tar_size
from prefixrack_server.upload import Draft, SpooledBundle
from prefixrack_server.uploads import Registration, fill_from

MAX_KEY_LEN = 255
READING = ("GET", "HEAD")
TAR_TYPES = ("application/x-tar", "application/tar")
MULTIPART_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"

Number = Annotated[int, PathParameter(ge=1, le=999_999_999)]

VersionNumber = Annotated[int, Field(ge=1, le=999_999_999, strict=True)]


async def check_writable(request: Request) -> None:
    """Raises RegistryReadOnly for a change of what a file declares; where adapters are resident, none does."""
    declared = services_of(request).config.registry.declared
    if declared is not None and request.method not in READING and not request.url.path.endswith("/residency"):
        raise RegistryReadOnly(
            f"this server's registry is declared by the file {declared.name!r}: change that, and the server follows"
        )


router = APIRouter(
    prefix="/admin/v1/adapters/{name}",
    tags=["admin"],
    responses=ADMIN_PROBLEMS,
    dependencies=[Depends(check_writable)],
)


class CanaryTarget(BaseModel):
    """A version that answers a share of an alias' requests: the same callers always, by their routing key."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber
    share: Annotated[float, Field(gt=0, lt=1, strict=True)]


class AliasTarget(BaseModel):
    """Body of `PUT …/aliases/{alias}`: the whole stand of the alias. What is left out is not there afterwards."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber
    canary: CanaryTarget | None = None
    shadow: Annotated[
        VersionNumber | None,
        Field(description="A version that computes what the alias is asked; its answers are compared and dropped."),
    ] = None
    require: Annotated[
        list[Annotated[str, Field(max_length=300)]],
        Field(
            max_length=32,
            description="What the version's manifest must claim, each as [dataset:]metric, a comparison and a number; "
            "otherwise nothing moves (412, requirement_not_met).",
            examples=[["f1>=0.9", "wnut17:span_f1>=0.5"]],
        ),
    ] = []


class BundleSource(BaseModel):
    """Body of `POST …/versions` that says where the bundle lies, instead of holding it."""

    model_config = ConfigDict(extra="forbid")

    source: Annotated[
        str,
        Field(min_length=1, max_length=1000, examples=["hf://owner/name@main/folder", "s3://bucket/adapters/intent"]),
    ]
    # What a PEFT adapter does not say itself.
    task: Annotated[str | None, Field(max_length=100)] = None
    labels: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=10_000)] = []


class AliasGates(BaseModel):
    """Body of `PUT …/aliases/{alias}/gates`."""

    model_config = ConfigDict(extra="forbid")

    require: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=32)]


class ResidencyWish(BaseModel):
    """Body of `PUT …/residency`."""

    model_config = ConfigDict(extra="forbid")

    keep_resident: Annotated[bool, Field(strict=True)]


class AliasList(Wire):
    data: list[AliasInfo]


@router.post(
    "/versions",
    status_code=201,
    response_model=VersionInfo,
    responses={200: {"model": VersionInfo, "description": "The same digest is a version already"}, **UPLOAD_PROBLEMS},
    openapi_extra=UPLOAD_BODY,
)
async def upload(
    request: Request,
    name: str,
    caller: Writer,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Add a version: multipart with the fields manifest, tensors and card, or a tar of the bundle's files.

    Or JSON that names where the bundle lies, `{"source": "hf://…"}`: the server fetches it, if its settings allow.
    """
    services = services_of(request)
    _check_idempotency_key(idempotency_key)

    async def fill(draft: Draft) -> SpooledBundle:
        return await _spool(request, draft)

    registration = Registration(*caller.new_adapter(name), caller.actor, idempotency_key)
    version, is_new = await services.uploads.accept(registration, fill)
    info = await services.registry.describe(version, is_new)
    return JSONResponse(info.model_dump(mode="json"), status_code=201 if is_new else 200)


@router.get("/versions")
async def list_versions(
    request: Request, name: str, caller: Reader, limit: Limit = 100, cursor: str | None = None
) -> VersionPage:
    """All versions, newest first."""
    versions, next_cursor = await services_of(request).registry.list_versions(*caller.adapter(name), limit, cursor)
    return VersionPage(data=versions, next_cursor=next_cursor)


@router.get("/versions/{number}")
async def get_version(request: Request, name: str, number: Number, caller: Reader) -> VersionDetail:
    """A version with its manifest and its card, without the tensors."""
    services = services_of(request)
    return await services.registry.describe_fully(await _version(services, caller, name, number))


@router.get("/versions/{number}/bundle", response_class=StreamingResponse, responses=BUNDLE_ANSWER)
async def download(request: Request, name: str, number: Number, caller: Reader) -> Response:
    """What was uploaded, byte for byte, as an uncompressed tar."""
    services = services_of(request)
    version = await _version(services, caller, name, number)
    files = await services.registry.open_bundle_files(version)
    headers = {
        "Content-Length": str(tar_size(files)),
        "Content-Disposition": f'attachment; filename="{version.name}-{number}.tar"',
        "ETag": f'"{version.digest}"',
    }
    return StreamingResponse(tar_blocks(files), media_type=TAR_TYPES[0], headers=headers)


@router.delete("/versions/{number}", status_code=204)
async def delete_version(request: Request, name: str, number: Number, caller: Writer) -> Response:
    """Requests in flight finish on it; the number is not given out again."""
    services = services_of(request)
    removed = await services.registry.delete_version(*caller.adapter(name), number, by=caller.actor)
    await services.keeper.let_go(removed)
    return Response(status_code=204)


@router.delete("", status_code=204)
async def delete_adapter(request: Request, name: str, caller: Writer) -> Response:
    """Delete an adapter with all its versions and aliases."""
    services = services_of(request)
    removed = await services.registry.delete_adapter(*caller.adapter(name), by=caller.actor)
    await services.keeper.let_go(removed)
    return Response(status_code=204)


@router.get("/aliases")
async def list_aliases(request: Request, name: str, caller: Reader) -> AliasList:
    return AliasList(data=await services_of(request).registry.list_aliases(*caller.adapter(name)))


@router.get("/aliases/{alias}")
async def get_alias(request: Request, response: Response, name: str, alias: str, caller: Reader) -> AliasInfo:
    """The ETag goes into If-Match of the next change."""
    info = await services_of(request).registry.get_alias(*caller.adapter(name), alias)
    response.headers["ETag"] = info.etag
    return info


@router.put("/aliases/{alias}", openapi_extra=body_of(AliasTarget), responses=ALIAS_PROBLEMS)
async def put_alias(
    request: Request,
    response: Response,
    name: str,
    alias: str,
    caller: Promoter,
    if_match: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> AliasInfo:
    """Promotion: an alias that exists moves only with its ETag (or *) in If-Match.

    With `require`, the version's manifest must claim such numbers; `claims` of the answer shows them. They are what the
    uploader measured, not the server.
    """
    target = await read_model(request, AliasTarget)
    info = await services_of(request).registry.put_alias(
        *caller.adapter(name),
        alias,
        _target(target),
        if_match,
        if_none_match=if_none_match,
        require=target.require,
        by=caller.actor,
    )
    response.headers["ETag"] = info.etag
    return info


@router.post("/aliases/{alias}/rollback", responses=ALIAS_PROBLEMS)
async def roll_back(
    request: Request,
    response: Response,
    name: str,
    alias: str,
    caller: Promoter,
    if_match: Annotated[str | None, Header()] = None,
) -> AliasInfo:
    """Take the canary and the shadow away; where there is no canary, return to the version before."""
    registry = services_of(request).registry
    info = await registry.roll_back(*caller.adapter(name), alias, if_match, by=caller.actor)
    response.headers["ETag"] = info.etag
    return info


@router.get("/aliases/{alias}/gates")
async def get_gates(request: Request, name: str, alias: str, caller: Reader) -> GatesInfo:
    return await services_of(request).registry.get_gates(*caller.adapter(name), alias)


@router.put("/aliases/{alias}/gates", openapi_extra=body_of(AliasGates))
async def put_gates(request: Request, name: str, alias: str, caller: TenantAdmin) -> GatesInfo:
    """Protect an alias: whatever answers under it must claim this. With none, it is no longer protected."""
    body = await read_model(request, AliasGates)
    registry = services_of(request).registry
    return await registry.put_gates(*caller.adapter(name), alias, body.require, by=caller.actor)


@router.delete("/aliases/{alias}", status_code=204)
async def delete_alias(
    request: Request, name: str, alias: str, caller: Promoter, if_match: Annotated[str | None, Header()] = None
) -> Response:
    await services_of(request).registry.delete_alias(*caller.adapter(name), alias, if_match, by=caller.actor)
    return Response(status_code=204)


@router.get("/versions/{number}/residency")
async def get_residency(request: Request, name: str, number: Number, caller: Reader) -> ResidencyInfo:
    services = services_of(request)
    return await _residency(services, await _version(services, caller, name, number))


@router.put("/versions/{number}/residency", openapi_extra=body_of(ResidencyWish))
async def put_residency(request: Request, name: str, number: Number, caller: Writer) -> ResidencyInfo:
    """Hold a version on the device, or let it be evicted again."""
    services = services_of(request)
    wish = await read_model(request, ResidencyWish)
    version = await services.registry.set_kept(*caller.adapter(name), number, wish.keep_resident, by=caller.actor)
    await services.keeper.sync()
    return await _residency(services, version)


def _target(wanted: AliasTarget) -> Target:
    if wanted.canary is None:
        return Target(wanted.version, shadow_number=wanted.shadow)
    return Target(wanted.version, wanted.canary.version, wanted.canary.share, wanted.shadow)


async def _version(services: Services, caller: Caller, name: str, number: int) -> Version:
    tenant, plain_name = caller.adapter(name)
    return await services.registry.resolve(tenant, f"{check_name(plain_name)}@{number}")


async def _residency(services: Services, version: Version) -> ResidencyInfo:
    return ResidencyInfo(
        name=version.name,
        version=version.number,
        digest=version.digest,
        keep_resident=version.kept,
        state=await services.engine.residency(version.digest),
    )


async def _spool(request: Request, draft: Draft) -> SpooledBundle:
    """Read the body into the draft by its media type. Raises UnsupportedMediaType."""
    content_type = request.headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == MULTIPART_TYPE:
        return await read_multipart(request.stream(), content_type, draft)
    if media_type in TAR_TYPES:
        return await read_tar(request.stream(), draft)
    if media_type == JSON_TYPE:
        sources, wanted = services_of(request).sources, await read_model(request, BundleSource)
        with sources.scratch() as scratch:
            bundle = await sources.fetch(wanted.source, Path(scratch), task=wanted.task, labels=wanted.labels)
            return await fill_from(bundle, draft)
    raise UnsupportedMediaType(
        f"Content-Type is {media_type[:80]!a}, allowed are {MULTIPART_TYPE}, {TAR_TYPES[0]} and {JSON_TYPE}: "
        "upload with `prefixrack push`"
    )


def _check_idempotency_key(key: str | None) -> None:
    if key is not None and not (1 <= len(key) <= MAX_KEY_LEN and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"Idempotency-Key has {len(key)} characters: 1 to {MAX_KEY_LEN} printable ASCII characters are allowed"
        )
