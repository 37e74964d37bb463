"""What a fault's body looks like: each protocol's clients read another shape. Knows no route and no status table."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from prefixrack import errors


class Refusal(NamedTuple):
    """A fault on its way out."""

    fault: errors.Fault
    status: int
    request_id: str


class Dialect(NamedTuple):
    media_type: str
    document: Callable[[Refusal], dict[str, Any]]


def dialect_of(path: str) -> Dialect:
    """That of the protocol whose routes are at `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        return OPEN_INFERENCE
    if path in OPENAI_PATHS or path.startswith(OPENAI_FOLDERS):
        return OPENAI
    return PROBLEM


def _problem(refusal: Refusal) -> dict[str, Any]:
    """RFC 9457. `error` as plain text is what Hugging Face's client shows."""
    fault = refusal.fault
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": fault.detail,
        "code": fault.code,
        "request_id": refusal.request_id,
        "error": fault.detail,
    }
    if isinstance(fault, errors.AllInputsFailed):
        document["errors"] = fault.errors
    return document


def _open_inference(refusal: Refusal) -> dict[str, Any]:
    """The protocol allows one string and nothing else, so the code stands in it."""
    return {"error": f"{refusal.fault.code}: {refusal.fault.detail}"}


def _openai(refusal: Refusal) -> dict[str, Any]:
    kind = OPENAI_TYPES.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    param = "model" if isinstance(refusal.fault, MODEL_FAULTS) else None
    return {"error": {"message": refusal.fault.detail, "type": kind, "param": param, "code": refusal.fault.code}}


PROBLEM: Final = Dialect("application/problem+json", _problem)
OPEN_INFERENCE: Final = Dialect("application/json", _open_inference)
OPENAI: Final = Dialect("application/json", _openai)

OPENAI_PATHS: Final = frozenset({"/v1/models", "/v1/embeddings"})
OPENAI_FOLDERS: Final = ("/v1/models/", "/v1/embeddings/")
OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
MODEL_FAULTS: Final = (errors.AdapterNotFound, errors.VersionNotFound, errors.AliasNotFound, errors.InvalidName)
