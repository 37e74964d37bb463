"""OpenAI's routes: bodies that its client would not send, long lists, canaries."""

from __future__ import annotations

from typing import Any

import pytest

from prefixrack_server.messages import RowFailure


@pytest.fixture
async def ready(server: Any, bundles: Any) -> Any:
    await server.upload(bundles("vectors", "text-embedding"))
    return server


async def embed(server: Any, **body: Any) -> Any:
    return await server.client.post("/v1/embeddings", json=body)


async def test_all_adapters_are_listed_over_pages(ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixrack_server.compat.catalogue.PAGE", 2)
    for name in ("a", "b", "c", "d"):
        await ready.upload(bundles(name))
    answer = (await ready.client.get("/v1/models")).json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["a", "b", "c", "d", "vectors"]
    assert {model["parent"] for model in answer["data"]} == {"tiny"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "list"),
        ({}, "model"),
        ({"model": "vectors"}, "input"),
        ({"model": 7, "input": "hello"}, "model"),
        ({"model": "vectors", "input": {"text": "hello"}}, "string or a list of strings"),
        ({"model": "vectors", "input": "hello", "encoding_format": "int8"}, "encoding_format"),
        ({"model": "vectors", "input": "hello", "dimensions": 0}, "dimensions"),
        ({"model": "vectors", "input": "hello", "user": ""}, "user"),
    ],
)
async def test_bodies_of_another_shape(ready: Any, body: Any, said: str) -> None:
    answer = await ready.client.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (422, "invalid_request", "invalid_request_error")
    assert said in error["message"]


async def test_every_status_has_the_protocol_s_body(ready: Any) -> None:
    for method, path, status, code in (
        ("GET", "/v1/models/nobody", 404, "adapter_not_found"),
        ("GET", "/v1/models/vectors@7", 404, "version_not_found"),
        ("GET", "/v1/models/In%20tent", 400, "invalid_name"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
    ):
        answer = await ready.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), path
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    answer = await ready.client.post("/v1/embeddings", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")


async def test_an_overloaded_server_says_when_to_come_back(ready: Any) -> None:
    for code, status, kind in (
        ("server_overloaded", 503, "server_error"),
        ("queue_share_exceeded", 429, "rate_limit_error"),
    ):
        ready.engine.failures[""] = RowFailure(code, "the queue is full", 3.0)
        answer = await embed(ready, model="vectors", input="hello")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (status, code, kind)
        assert answer.headers["retry-after"] == "3"


async def test_a_user_s_requests_go_to_one_version(ready: Any, bundles: Any) -> None:
    """`user` chooses as `routing_key` does in a native body."""
    await ready.upload(bundles("vectors", "text-embedding", seed=1))
    canary = {"version": 1, "canary": {"version": 2, "share": 0.5}}
    answer = await ready.client.put("/admin/v1/adapters/vectors/aliases/production", json=canary)
    assert answer.is_success, answer.text
    seen = set()
    for user in (f"user-{number}" for number in range(12)):
        vector = (await embed(ready, model="vectors", input="hello", user=user)).json()["data"][0]["embedding"]
        again = (await embed(ready, model="vectors", input="hello", user=user)).json()["data"][0]["embedding"]
        body = {"inputs": "hello", "routing_key": user}
        native = (await ready.client.post("/v1/vectors/predict", json=body)).json()
        assert vector == again == native["outputs"][0]["embedding"]
        seen.add(native["adapter"]["version"])
    assert seen == {1, 2}
