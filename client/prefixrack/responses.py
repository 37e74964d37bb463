"""From a response to a typed value or a typed error. Pure: knows nothing of sending, waiting or retrying."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from prefixrack.errors import (
    APIConnectionError,
    APIStatusError,
    UnprocessableEntityError,
    error_class_of_status,
)
from prefixrack.types import FailedOutput, InputError
from prefixrack.validation import first_problem

Model = TypeVar("Model", bound=BaseModel)
SHOWN_CHARS = 200


def decode(model: type[Model], response: httpx2.Response) -> Model:
    """The body as `model`. Raises APIConnectionError when a success carries something else, as a proxy's page."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        problem = first_problem(error)
        raise APIConnectionError(
            f"{response.request.url} answered {response.status_code}, but not with a {model.__name__} "
            f"({problem.place or 'body'}: {problem.sentence}): check that the base URL is a Prefixrack server of this "
            "version"
        ) from error


def status_error(response: httpx2.Response) -> APIStatusError:
    """The typed error of a response that is no success; its body must have been read."""
    body = _body_of(response)
    problem = body if isinstance(body, dict) else {}
    return error_class_of_status(response.status_code)(
        _message_of(response, problem) + _hint_at_base_url(response),
        status=response.status_code,
        code=_text(problem.get("code")),
        request_id=_text(problem.get("request_id")) or response.headers.get("x-request-id"),
        retry_after=retry_after_s(response),
        body=body,
        response=response,
    )


def retry_after_s(response: httpx2.Response) -> float | None:
    """Seconds that the server asks us to wait: `retry-after-ms`, else `Retry-After` as seconds or as a date."""
    milliseconds = _number(response.headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    header = response.headers.get("retry-after")
    seconds = _number(header)
    return _seconds_until(header) if seconds is None and header else seconds


def failed_outputs(error: APIStatusError, num_inputs: int) -> list[FailedOutput] | None:
    """One output per input when the server refused every one of them, else None: the fault is the request's."""
    if not isinstance(error, UnprocessableEntityError) or not isinstance(error.body, dict):
        return None
    entries = error.body.get("errors")
    if error.code != "all_inputs_failed" or not isinstance(entries, list) or len(entries) != num_inputs:
        return None
    return [_failed_output(entry, error) for entry in entries]


def failure_of(error: APIStatusError) -> FailedOutput:
    """The refusal of a request that held one input, as that input's output."""
    return FailedOutput(error=InputError(code=error.code or "invalid_input", message=str(error)))


def _failed_output(entry: Any, error: APIStatusError) -> FailedOutput:
    inner = entry.get("error", entry) if isinstance(entry, dict) else None
    try:
        return FailedOutput(error=InputError.model_validate(inner))
    except ValidationError:
        return failure_of(error)


def _body_of(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.text


def _message_of(response: httpx2.Response, problem: dict[str, Any]) -> str:
    for name in ("detail", "error", "title"):
        if isinstance(problem.get(name), str) and problem[name]:
            return str(problem[name])
    shown = " ".join(response.text.split())[:SHOWN_CHARS]
    return f"{response.request.url} answered {response.status_code}" + (f": {shown}" if shown else "")


def _hint_at_base_url(response: httpx2.Response) -> str:
    """Other APIs' clients are given a base URL with the version, this one adds it."""
    if response.status_code == HTTPStatus.NOT_FOUND and "/v1/v1/" in response.request.url.path:
        return "; the base URL ends in /v1, which the client adds itself: leave it out"
    return ""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(header: str | None) -> float | None:
    """A finite number of 0 or more, else None."""
    try:
        value = float(header) if header is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _seconds_until(header: str) -> float | None:
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
