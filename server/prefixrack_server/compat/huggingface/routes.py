"""The API's one route. Which API task is asked for follows from the adapter's task and the shape of the body."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.compat.adapter_call import bind
from prefixrack_server.compat.documentation import TASK_BODY
from prefixrack_server.compat.huggingface.classification import plan_classification
from prefixrack_server.compat.huggingface.embeddings import is_similarity, plan_features, plan_similarity
from prefixrack_server.compat.huggingface.entities import plan_entities
from prefixrack_server.compat.huggingface.plan import Plan, given, split
from prefixrack_server.compat.huggingface.questions import plan_questions
from prefixrack_server.compat.huggingface.zero_shot import is_zero_shot, plan_zero_shot
from prefixrack_server.documentation import PREDICT_PROBLEMS
from prefixrack_server.envelope import parse_json, read_body, to_json
from prefixrack_server.routes.predict import JSON, BareRoute, admit, check_media_type
from prefixrack_server.services import services_of

router = APIRouter(tags=["Hugging Face"], route_class=BareRoute)


@router.post("/hf/{ref:path}", responses=PREDICT_PROBLEMS, openapi_extra=TASK_BODY)
async def infer(request: Request) -> Response:
    """What Hugging Face's `InferenceClient` asks: the task, and so the shape of the answer, is the adapter's."""
    services = services_of(request)
    call = await bind(request, await admit(request, services), request.path_params["ref"])
    check_media_type(request, (JSON,))
    body = await read_body(request, services.config.limits.max_body_bytes)
    plan = plan_of(parse_json(body), call.version.manifest, services.spec.hidden_size)
    answers = await call.predict(plan.inputs, plan.parameters, plan.num_bytes or len(body))
    return Response(to_json(plan.answer(answers.outputs)), media_type=JSON)


def plan_of(document: Any, manifest: Manifest, hidden_size: int) -> Plan:
    """Raises InvalidRequest for a body that the adapter's task has no use for."""
    if manifest.task == "text-embedding":
        return _embedding_plan(document, manifest.head.num_outputs or hidden_size)
    inputs, parameters = split(document)
    match manifest.task:
        case "text-classification" if manifest.input_format == PLAIN:
            plan = plan_zero_shot if is_zero_shot(parameters) else plan_classification
            return plan(inputs, parameters, manifest)
        case "token-classification" if manifest.input_format == PLAIN:
            return plan_entities(inputs, parameters, manifest)
        case "question-answering" if manifest.input_format == PLAIN:
            return plan_questions(inputs, parameters, manifest)
        case _:
            raise InvalidRequest(
                f"the adapter {manifest.name!r} does {manifest.task}, input format {manifest.input_format!r}: this API "
                f"has no task for it, use /v1/{manifest.name}/predict"
            )


def _embedding_plan(document: Any, size: int) -> Plan:
    """Here the parameters stand at the root."""
    if not isinstance(document, dict):
        raise InvalidRequest('the body must be a JSON object: send {"inputs": …}')
    fields = given({name: value for name, value in document.items() if name != "inputs"})
    inputs: Any = document.get("inputs")
    return plan_similarity(inputs, fields) if is_similarity(inputs) else plan_features(inputs, fields, size)
