"""What OpenAPI says about the routes of other protocols, errors in each one's own shape. Documents; checks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prefixrack_server.documentation import NO_KEY

Schema = dict[str, Any]

PREDICTION_STATUSES: Final = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
LIST_STATUSES: Final = (400, 401, 403, 404, 503)


def obj(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def answer(schema: Schema, error: Schema, statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: what it answers, and the shape of its errors."""
    faults: dict[int | str, dict[str, Any]] = {
        status: {"description": "Error", "content": json_content(error)} for status in statuses
    }
    return {200: {"content": json_content(schema)}} | faults


def body(content: Mapping[str, Any], *parameters: Schema) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads its body itself."""
    return {"parameters": list(parameters), "requestBody": {"required": True, "content": dict(content)}}


def json_content(schema: Schema, **example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **example}}


def in_path(name: str, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": TEXT, "description": description}


ANY: Final[Schema] = {}
TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
WHOLE: Final[Schema] = {"type": "integer"}
FREE: Final[Schema] = {"type": "object"}
ADAPTER: Final = "`name`, `name@alias` or `name@7`"

# Hugging Face: errors are the native problem documents.
TASK_BODY: Final = body(
    json_content(
        {"type": "object", "required": ["inputs"], "properties": {"inputs": ANY, "parameters": FREE}},
        example={"inputs": "play the next song", "parameters": {"top_k": 2}},
    ),
    in_path("ref", ADAPTER),
)

# The Open Inference Protocol.
OPEN_INFERENCE_ERROR: Final = obj({"error": {"type": "string", "example": "adapter_not_found: there is no …"}})
TENSOR: Final = obj({"name": TEXT, "datatype": TEXT, "shape": listed(WHOLE)}, {"parameters": FREE})
SERVER: Final = obj({"name": TEXT, "version": TEXT, "extensions": listed(TEXT)})
MODEL: Final = obj(
    {"name": TEXT, "versions": listed(TEXT), "platform": TEXT, "inputs": listed(TENSOR), "outputs": listed(TENSOR)}
)
INDEX: Final = listed(obj({"name": TEXT, "version": TEXT, "state": TEXT, "reason": TEXT}))
READY: Final = obj({"name": TEXT, "ready": {"type": "boolean"}})
INFERENCE: Final = obj(
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "outputs": listed(obj({"name": TEXT, "datatype": TEXT, "shape": listed(WHOLE)}, {"data": listed(ANY)})),
    },
    {"id": TEXT},
)
IN_MODEL: Final = {"parameters": [in_path("model", ADAPTER)]}
IN_VERSION: Final = {"parameters": [*IN_MODEL["parameters"], in_path("version", "The version's number")]}
INFER_EXAMPLE: Final = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["play the next song"]}]}


def infer_body(schema: Schema, place: Mapping[str, Any]) -> dict[str, Any]:
    """The same body as JSON, or as JSON with binary tensors behind it."""
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return body(json_content(schema, example=INFER_EXAMPLE) | binary, *place["parameters"])


def open_inference(schema: Schema, statuses: tuple[int, ...] = LIST_STATUSES) -> dict[int | str, dict[str, Any]]:
    return answer(schema, OPEN_INFERENCE_ERROR, statuses)


def health(name: str) -> dict[str, Any]:
    """A probe's route: it needs no key."""
    return {"responses": open_inference(obj({name: {"type": "boolean"}}), (503,)), "openapi_extra": NO_KEY}


# OpenAI.
OPENAI_ERROR: Final = obj(
    {"error": obj({"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": TEXT})}
)
OPENAI_MODEL: Final = obj(
    {"id": TEXT, "object": {"const": "model"}, "created": WHOLE, "owned_by": TEXT, "parent": TEXT}
)
OPENAI_MODELS: Final = obj({"object": {"const": "list"}, "data": listed(OPENAI_MODEL)})
IN_OPENAI_MODEL: Final = {"parameters": [in_path("ref", ADAPTER)]}
VECTOR: Final = {"anyOf": [listed(NUMBER), {"type": "string", "format": "byte"}]}
EMBEDDINGS: Final = obj(
    {
        "object": {"const": "list"},
        "data": listed(obj({"object": {"const": "embedding"}, "index": WHOLE, "embedding": VECTOR})),
        "model": TEXT,
        "usage": obj({"prompt_tokens": WHOLE, "total_tokens": WHOLE}),
    }
)


def openai(schema: Schema, statuses: tuple[int, ...] = LIST_STATUSES) -> dict[int | str, dict[str, Any]]:
    return answer(schema, OPENAI_ERROR, statuses)
