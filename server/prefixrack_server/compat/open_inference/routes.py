"""The protocol's routes. An adapter is a model, its version a version; `name@alias` is a model name too."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from prefixrack import errors
from prefixrack.version import installed_version
from prefixrack_server.auth import tenant_and_ref
from prefixrack_server.compat.adapter_call import bind
from prefixrack_server.compat.catalogue import SCOPE, all_adapters, all_versions
from prefixrack_server.compat.documentation import (
    IN_MODEL,
    IN_VERSION,
    INDEX,
    INFERENCE,
    MODEL,
    PREDICTION_STATUSES,
    READY,
    SERVER,
    infer_body,
    open_inference,
)
from prefixrack_server.compat.documentation import health as health_docs
from prefixrack_server.compat.open_inference.inference import JSON_LEN_HEADER, InferBody, parse_infer, write_infer
from prefixrack_server.compat.open_inference.interface import LOGITS, interface_of
from prefixrack_server.envelope import read_body, to_json
from prefixrack_server.registry.registry import Version
from prefixrack_server.routes import health
from prefixrack_server.routes.predict import JSON, BareRoute, admit
from prefixrack_server.services import services_of
from prefixrack_server.small_body import inlined_schema

PLATFORM: Final = "prefixrack_adapter"
INFER_SCHEMA: Final = inlined_schema(InferBody)
INFER_ANSWER: Final = open_inference(INFERENCE, PREDICTION_STATUSES)

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"], route_class=BareRoute)


@router.get("", responses=open_inference(SERVER))
async def server_metadata(request: Request) -> Response:
    """Name, version, and which parts of the protocol there are."""
    await services_of(request).gate.admit(request.headers, SCOPE)
    extensions = ["binary_tensor_data", "model_repository"]
    return _json({"name": "prefixrack", "version": installed_version(), "extensions": extensions})


@router.get("/health/live", **health_docs("live"))
async def live(request: Request) -> Response:
    """As `/health/live`."""
    return _json(await health.live(request))


@router.get("/health/ready", **health_docs("ready"))
async def ready(request: Request) -> Response:
    """As `/health/ready`."""
    answer = await health.ready(request)
    return _json({"ready": answer["ready"]})


@router.post("/repository/index", responses=open_inference(INDEX))
async def repository_index(request: Request) -> Response:
    """Every adapter, with the version that its bare name means. Any replica can serve each of them at once."""
    services = services_of(request)
    principal = await services.gate.admit(request.headers, SCOPE)
    return _json(
        [
            {"name": adapter.name, "version": str(adapter.version), "state": "READY", "reason": ""}
            for adapter in await all_adapters(services.registry, principal)
        ]
    )


@router.get("/models/{model}/ready", responses=open_inference(READY), openapi_extra=IN_MODEL)
@router.get("/models/{model}/versions/{version}/ready", responses=open_inference(READY), openapi_extra=IN_VERSION)
async def model_ready(request: Request) -> Response:
    """Ready is every version that there is, where the server is ready: it is loaded when it is asked for."""
    version = await _find(request)
    await health.ready(request)
    return _json({"name": version.name, "ready": True})


@router.get("/models/{model}", responses=open_inference(MODEL), openapi_extra=IN_MODEL)
@router.get("/models/{model}/versions/{version}", responses=open_inference(MODEL), openapi_extra=IN_VERSION)
async def model_metadata(request: Request) -> Response:
    """An adapter's versions, and the tensors that go in and come out."""
    services = services_of(request)
    version = await _find(request)
    numbers = await all_versions(services.registry, version.tenant, version.name)
    interface = interface_of(version.manifest, services.spec.hidden_size)
    return _json(
        {
            "name": version.name,
            "versions": [str(number) for number in numbers],
            "platform": PLATFORM,
            "inputs": interface.input_metadata(),
            "outputs": [spec.metadata() for spec in interface.outputs],
        }
    )


@router.post("/models/{model}/infer", responses=INFER_ANSWER, openapi_extra=infer_body(INFER_SCHEMA, IN_MODEL))
@router.post(
    "/models/{model}/versions/{version}/infer",
    responses=INFER_ANSWER,
    openapi_extra=infer_body(INFER_SCHEMA, IN_VERSION),
)
async def infer(request: Request) -> Response:
    """Tensors in, tensors out: as JSON, or as binary data whose JSON's length a header gives."""
    services = services_of(request)
    call = await bind(request, await admit(request, services), _ref(request))
    check_not_compressed(request)
    content = await read_body(request, services.config.limits.max_body_bytes)
    asked = parse_infer(content, request.headers.get(JSON_LEN_HEADER))
    interface = interface_of(call.version.manifest, services.spec.hidden_size)
    specs = interface.chosen(asked.body.output_names)
    inputs = interface.inputs(asked.columns)
    parameters = asked.body.parameters
    wants_logits = any(spec.name == LOGITS for spec in specs)
    timeout_s = min(parameters.timeout / 1e6, services.config.http.max_timeout_s) or None
    answers = await call.predict(inputs, parameters.of_task(wants_logits), asked.num_bytes, timeout_s)
    model = {"model_name": call.version.name, "model_version": str(call.version.number)}
    answer = write_infer(asked.body, model, [spec.tensor(answers.outputs) for spec in specs])
    return Response(answer.body, headers=dict(answer.headers))


def check_not_compressed(request: Request) -> None:
    """Raises UnsupportedMediaType. A compressed body could be any number of times as large as its limit."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise errors.UnsupportedMediaType(
            f"Content-Encoding is {encoding[:40]!a}, compressed bodies are not taken: send it as it is"
        )


def _ref(request: Request) -> str:
    """The path's model and version as the native routes write them."""
    model, version = request.path_params["model"], request.path_params.get("version")
    return model if version is None else f"{model}@{version}"


async def _find(request: Request) -> Version:
    """Raises the registry's faults, and those of the key."""
    services = services_of(request)
    principal = await services.gate.admit(request.headers, SCOPE)
    return await services.registry.resolve(*tenant_and_ref(principal, _ref(request)))


def _json(document: Any) -> Response:
    return Response(to_json(document), media_type=JSON)
