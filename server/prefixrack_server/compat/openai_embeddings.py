"""OpenAI's embeddings, by adapters of the task text-embedding. Knows no other task."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from prefixrack import errors
from prefixrack.types import Parameters
from prefixrack_server.compat.adapter_call import AdapterCall, bind
from prefixrack_server.compat.documentation import EMBEDDINGS, PREDICTION_STATUSES, openai
from prefixrack_server.envelope import MAX_ROUTING_KEY_LEN, json_object, parse_fields, parse_json, read_body, to_json
from prefixrack_server.registry.registry import Version
from prefixrack_server.routes.predict import JSON, BareRoute, admit, check_media_type
from prefixrack_server.services import services_of
from prefixrack_server.small_body import body_of

router = APIRouter(tags=["OpenAI"], route_class=BareRoute)


class EmbeddingsBody(BaseModel):
    """`user` says whose request it is: for a canary, the same one goes to the same version."""

    model_config = ConfigDict(extra="forbid")

    model: str
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: Annotated[str, Field(min_length=1, max_length=MAX_ROUTING_KEY_LEN)] | None = None


@router.post("/v1/embeddings", responses=openai(EMBEDDINGS, PREDICTION_STATUSES), openapi_extra=body_of(EmbeddingsBody))
async def embed(request: Request) -> Response:
    """Vectors of texts, by an adapter for text embedding."""
    services = services_of(request)
    allowance = await admit(request, services)
    check_media_type(request, (JSON,))
    content = await read_body(request, services.config.limits.max_body_bytes)
    body = parse_fields(EmbeddingsBody, json_object(parse_json(content), EmbeddingsBody.model_fields))
    call = await bind(request, allowance, body.model, body.user)
    _check_embeds(call.version)
    _check_dimensions(body.dimensions, _embedding_size(call))
    answers = await call.predict(_texts(body.input), Parameters(), len(content))
    vectors = [output["embedding"] for output in answers.outputs]
    usage = {"prompt_tokens": answers.num_tokens, "total_tokens": answers.num_tokens}
    data = [_entry(index, vector, body.encoding_format) for index, vector in enumerate(vectors)]
    return Response(to_json({"object": "list", "data": data, "model": body.model, "usage": usage}), media_type=JSON)


def _check_embeds(version: Version) -> None:
    """Raises InvalidRequest for an adapter that gives no vector."""
    task = version.manifest.task
    if task != "text-embedding":
        raise errors.InvalidRequest(
            f"the adapter {version.name!r} does {task}, an embedding needs an adapter for text-embedding: choose "
            "another one, or use its own task's route"
        )


def _embedding_size(call: AdapterCall) -> int:
    return call.version.manifest.head.num_outputs or services_of(call.request).spec.hidden_size


def _check_dimensions(wanted: int | None, size: int) -> None:
    if wanted not in (None, size):
        raise errors.InvalidRequest(
            f"dimensions is {wanted}, this adapter's embeddings have {size} and cannot be shortened: leave it out"
        )


def _texts(value: Any) -> Sequence[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise errors.InvalidRequest(
            "input must be a string or a list of strings; token ids are not taken, since they belong to another "
            "tokenizer: send the text"
        )
    return texts


def _entry(index: int, vector: Sequence[float], encoding_format: str) -> dict[str, Any]:
    embedding: Sequence[float] | str = vector
    if encoding_format == "base64":
        embedding = base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode("ascii")
    return {"object": "embedding", "index": index, "embedding": embedding}
