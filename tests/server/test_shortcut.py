"""Predictions past the framework: the same answers as through it, faults and metrics included."""

from __future__ import annotations

from typing import Any

import pytest

from prefixrack_server.routes import shortcut
from prefixrack_server.routes.predict import BareRoute

GOOD = b'{"inputs": ["hello", ""]}'
JSON = {"content-type": "application/json"}
CALLS: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "predict": ("POST", "/v1/intent/predict", GOOD, JSON),
    "at a version": ("POST", "/v1/intent@1/predict", GOOD, JSON),
    "fan-out": ("POST", "/v1/predict", b'{"adapters": ["intent", "nobody"], "inputs": "hello"}', JSON),
    "bulk": ("POST", "/v1/intent/predict", b'{"inputs": "hello"}\n[]\n', {"content-type": "application/jsonl"}),
    "unknown adapter": ("POST", "/v1/nobody/predict", GOOD, JSON),
    "malformed JSON": ("POST", "/v1/intent/predict", b"{", JSON),
    "all inputs failed": ("POST", "/v1/intent/predict", b'{"inputs": ""}', JSON),
    "media type": ("POST", "/v1/intent/predict", GOOD, {"content-type": "text/plain"}),
    "a slash": ("POST", "/v1/a/b/predict", GOOD, JSON),
    "an empty name": ("POST", "/v1//predict", GOOD, JSON),
    "a line end": ("POST", "/v1/a%0Ab/predict", GOOD, JSON),
    "a line end behind": ("POST", "/v1/intent/predict%0A", GOOD, JSON),
    "method": ("GET", "/v1/intent/predict", b"", {}),
    "no such route": ("POST", "/v1/intent/guess", GOOD, JSON),
    "another's page": ("POST", "/v1/intent/predict", GOOD, JSON | {"origin": "https://evil.example"}),
}


async def ask(server: Any, name: str) -> dict[str, Any]:
    """What does not change from call to call."""
    method, path, body, headers = CALLS[name]
    request = server.client.build_request(method, path, content=body, headers=headers | {"x-request-id": "r1"})
    answer = await server.client.send(request)
    text = answer.text if "jsonl" in answer.headers["content-type"] else answer.json()
    if isinstance(text, dict):
        text.pop("timings_ms", None)
    return {"status": answer.status_code, "headers": dict(answer.headers) | {"content-length": ""}, "body": text}


@pytest.mark.parametrize("name", CALLS)
async def test_both_ways_answer_alike(server: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    await server.upload(bundles("intent"))
    direct = await ask(server, name)
    monkeypatch.setattr(shortcut, "_route_of", lambda _: None)
    assert direct == await ask(server, name)
    lines = (await server.client.get("/metrics")).text.splitlines()
    counted = [line for line in lines if line.startswith("prefixrack_http_requests_total") and "versions" not in line]
    assert [line.rsplit(" ", 1)[1] for line in counted] == ["2.0"]


async def test_a_prediction_takes_the_shortcut(server: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await server.upload(bundles("intent"))

    def refuse(*_: Any) -> None:
        raise AssertionError("the framework looks for the route")

    monkeypatch.setattr(BareRoute, "matches", refuse)
    assert (await ask(server, "predict"))["status"] == 200
    assert (await ask(server, "fan-out"))["status"] == 200
