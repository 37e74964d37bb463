"""Small JSON bodies of administration routes, read after the caller was admitted and never beyond their limit.

FastAPI reads and parses a body before it asks any dependency, so a stranger could make it read without end; its own
limit answers in plain text. This is `envelope.py`'s reader with a model at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from prefixrack.errors import InvalidRequest
from prefixrack.validation import Problem, problems_of
from prefixrack_server.envelope import parse_json, read_body, seen

MAX_BYTES = 64 * 1024

Model = TypeVar("Model", bound=BaseModel)


async def read_model(request: Request, model: type[Model]) -> Model:
    """Raises PayloadTooLarge, MalformedJson or InvalidRequest, which repeat numbers and keywords of the body alone."""
    document = parse_json(await read_body(request, MAX_BYTES))
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(_problems(error)) from None


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route that reads `model`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined_schema(model)}}}}


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema, whole in itself."""
    schema = model.model_json_schema()
    whole: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    return whole


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with the models inside it in their places: the document's own definitions do not have them."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items()}


def _problems(error: ValidationError) -> str:
    problems = problems_of(error.errors(include_url=False, include_context=False)[:5])
    return "; ".join(f"{_place(problem)}: {problem.sentence}{seen(problem)}" for problem in problems)


def _place(problem: Problem) -> str:
    return ".".join(str(part)[:40] for part in problem.parts) or "body"
