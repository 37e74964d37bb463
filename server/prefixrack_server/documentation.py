"""What OpenAPI says about the routes that read their bodies themselves. Documents; checks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from prefixrack.types import BulkLine, FanOutRequest, PredictRequest, Problem

SCHEMAS: Final = "#/components/schemas/"
# Models that no route has as a parameter or answer of its own.
EXTRA_MODELS: Final[tuple[type[BaseModel], ...]] = (PredictRequest, FanOutRequest, BulkLine, Problem)

# The two ways of sending a key; a route that needs none says so itself.
KEY_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
NO_KEY: Final[dict[str, Any]] = {"security": []}


def ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": SCHEMAS + model.__name__}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: each status is a problem document."""
    content = {"application/problem+json": {"schema": ref(Problem)}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


PREDICT_PROBLEMS: Final = problems(400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504)
ADMIN_PROBLEMS: Final = problems(400, 401, 403, 404, 409, 422)
ALIAS_PROBLEMS: Final = problems(412, 413, 428)
UPLOAD_PROBLEMS: Final = problems(400, 401, 403, 409, 413, 415, 422, 503, 507)

PREDICT_BODY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "ref",
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": "`name` (alias production, else latest), `name@alias` or `name@7`",
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ref(PredictRequest), "example": {"inputs": "a text, or a list of inputs"}},
            "application/jsonl": {
                "schema": {"type": "string"},
                "example": '{"id": 1, "inputs": "one input a line"}\n',
            },
        },
    },
}
FAN_OUT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": ref(FanOutRequest),
                "example": {"adapters": ["intent", "emotions@1"], "inputs": "a text, or a list of inputs"},
            }
        },
    }
}
UPLOAD_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["manifest", "tensors"],
                    "properties": {
                        "manifest": {"type": "string", "format": "binary"},
                        "tensors": {"type": "string", "format": "binary"},
                        "card": {"type": "string", "format": "binary"},
                    },
                }
            },
            "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["source"],
                    "properties": {
                        "source": {"type": "string", "example": "hf://owner/name@main/folder"},
                        "task": {"type": "string", "description": "What a PEFT adapter does not say itself"},
                        "labels": {"type": "array", "items": {"type": "string"}, "description": "Likewise"},
                    },
                    "additionalProperties": False,
                }
            },
        },
    }
}
BUNDLE_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bundle as an uncompressed tar",
        "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
    },
    **ADMIN_PROBLEMS,
}


def install_openapi(app: FastAPI, needs_key: bool) -> None:
    """Add what no route's signature says: the models that only `ref` names, and how a key is sent."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name, schema in _extra_schemas().items():
            schemas.setdefault(name, schema)
        if needs_key:
            document["components"]["securitySchemes"] = KEY_SCHEMES
            document["security"] = [{name: []} for name in KEY_SCHEMES]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _extra_schemas() -> Mapping[str, Any]:
    wanted = [(model, "validation") for model in EXTRA_MODELS]
    _, schema = models_json_schema(wanted, ref_template=SCHEMAS + "{model}")  # type: ignore[arg-type]
    definitions: Mapping[str, Any] = schema["$defs"]
    return definitions
