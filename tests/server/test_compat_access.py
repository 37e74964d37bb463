"""Keys, quotas, tenants and counts are those of the native routes, whatever the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from prefixrack_server.messages import RowFailure

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
# Of each protocol: a prediction of the embedding adapter {0}, and where the answer's code stands.
PREDICTIONS: dict[str, tuple[str, Any]] = {
    "Hugging Face": ("/hf/{0}", {"inputs": "hello"}),
    "Open Inference": ("/v2/models/{0}/infer", {"inputs": [TENSOR]}),
    "Open Inference, a version": ("/v2/models/{0}/versions/1/infer", {"inputs": [TENSOR]}),
    "OpenAI": ("/v1/embeddings", {"model": "{0}", "input": "hello"}),
}
EVERY = pytest.mark.parametrize("protocol", PREDICTIONS)


class Callers:
    """Keys of two tenants at one server, each with an adapter `vectors`."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.secrets: dict[str, str] = {}

    def headers(self, who: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[who]}"}

    async def predict(self, protocol: str, who: str, adapter: str = "vectors", **headers: str) -> Any:
        path, body = PREDICTIONS[protocol]
        filled = {name: adapter if value == "{0}" else value for name, value in body.items()}
        return await self.server.client.post(path.format(adapter), json=filled, headers=self.headers(who) | headers)

    async def get(self, who: str, path: str) -> Any:
        return await self.server.client.get(path, headers=self.headers(who))


def code_of(answer: Any) -> str:
    """The code in an error, which has its protocol's shape and no other."""
    body, path = answer.json(), answer.request.url.path
    if path.startswith("/hf/"):
        assert answer.headers["content-type"] == "application/problem+json"
        assert body["error"] == body["detail"]
        assert body["request_id"] == answer.headers["x-request-id"]
    else:
        assert answer.headers["content-type"] == "application/json"
        assert list(body) == ["error"]
        fields = {"message", "type", "param", "code"}
        assert isinstance(body["error"], str) if path.startswith("/v2") else set(body["error"]) == fields
    if "code" in body:
        return str(body["code"])
    error = body["error"]
    return str(error["code"] if isinstance(error, dict) else error.partition(":")[0])


@pytest.fixture
async def callers(serving: Any, bundles: Any) -> AsyncIterator[Callers]:
    async with serving(http={"auth": "keys"}) as server:
        callers = Callers(server)
        callers.secrets["admin"] = await server.registry.ensure_admin_key()
        await server.registry.create_tenant("other")
        for who, tenant, scopes, patterns in (
            ("own", "default", ["predict", "adapters:read"], []),
            ("other", "other", ["tenant:admin"], []),
            ("limited", "default", ["predict", "adapters:read"], ["mine-*"]),
            ("reader", "default", ["adapters:read"], []),
        ):
            info = await server.registry.create_key(tenant, scopes, adapters=patterns)
            callers.secrets[who] = info.secret
        for seed, (who, name) in enumerate((("admin", "vectors"), ("other", "vectors"), ("other", "theirs"))):
            bundle = bundles(name, "text-embedding", seed)
            assert (await server.upload(bundle, **callers.headers(who))).status_code == 201
        assert (await server.upload(bundles("mine-1"), **callers.headers("admin"))).status_code == 201
        yield callers


@EVERY
async def test_each_tenant_gets_its_own_adapter(callers: Callers, protocol: str) -> None:
    own, other = [(await callers.predict(protocol, who)).json() for who in ("own", "other")]
    assert own != other
    across = (await callers.predict(protocol, "admin", "other:vectors")).json()
    if isinstance(other, dict) and "model" in other:
        other["model"] = "other:vectors"
    assert across == other


@EVERY
@pytest.mark.parametrize(
    ("who", "adapter", "status", "code"),
    [
        ("own", "theirs", 404, "adapter_not_found"),
        ("own", "other:vectors", 404, "adapter_not_found"),
        ("limited", "vectors", 404, "adapter_not_found"),
        ("reader", "vectors", 403, "forbidden"),
    ],
)
async def test_what_a_key_may_not_use(
    callers: Callers, protocol: str, who: str, adapter: str, status: int, code: str
) -> None:
    answer = await callers.predict(protocol, who, adapter)
    assert (answer.status_code, code_of(answer)) == (status, code)


@pytest.mark.parametrize(
    ("who", "names"),
    [("own", ["mine-1", "vectors"]), ("limited", ["mine-1"]), ("other", ["theirs", "vectors"])],
)
async def test_lists_have_what_the_key_may_use(callers: Callers, who: str, names: list[str]) -> None:
    models = (await callers.get(who, "/v1/models")).json()["data"]
    index = await callers.server.client.post("/v2/repository/index", headers=callers.headers(who))
    assert [model["id"] for model in models] == [entry["name"] for entry in index.json()] == names


@pytest.mark.parametrize("path", ["/v1/models/{0}", "/v2/models/{0}", "/v2/models/{0}/ready"])
async def test_what_a_key_may_not_see(callers: Callers, path: str) -> None:
    for who, name in (("own", "theirs"), ("own", "other:vectors"), ("limited", "vectors")):
        answer = await callers.get(who, path.format(name))
        assert (answer.status_code, code_of(answer)) == (404, "adapter_not_found"), (who, name)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/vectors", "/v2", "/v2/models/vectors"])
async def test_a_key_is_needed(callers: Callers, path: str) -> None:
    answer = await callers.server.client.get(path)
    assert (answer.status_code, code_of(answer)) == (401, "missing_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@EVERY
async def test_requests_count_against_the_quota(callers: Callers, protocol: str) -> None:
    await callers.server.registry.change_tenant("default", {"requests_per_minute": 1})
    answer = await callers.predict(protocol, "own")
    assert (answer.status_code, answer.headers["ratelimit"][:15]) == (200, '"requests";r=0;')
    refused = await callers.predict(protocol, "own")
    assert (refused.status_code, code_of(refused)) == (429, "request_quota_exceeded")
    assert int(refused.headers["retry-after"]) >= 1


@EVERY
async def test_tokens_count_against_the_quota(callers: Callers, protocol: str) -> None:
    await callers.server.registry.change_tenant("default", {"tokens_per_minute": 4})
    assert (await callers.predict(protocol, "own")).status_code == 200
    refused = await callers.predict(protocol, "own")
    assert (refused.status_code, code_of(refused)) == (429, "token_quota_exceeded")


@EVERY
async def test_faults_come_in_the_protocols_shape_with_the_requests_id(callers: Callers, protocol: str) -> None:
    path = PREDICTIONS[protocol][0].format("vectors")
    mine = callers.headers("own") | {"Content-Type": "application/json", "X-Request-Id": "mine-1"}
    seen = []
    for content in (b"{", b" " * (1 << 22)):
        answer = await callers.server.client.post(path, content=content, headers=mine)
        assert answer.headers["x-request-id"] == "mine-1"
        seen.append((answer.status_code, code_of(answer)))
    for headers in ({"X-Request-Timeout-Ms": "soon"}, {"X-Routing-Key": "x" * 1000}):
        answer = await callers.predict(protocol, "own", **headers)
        seen.append((answer.status_code, code_of(answer)))
    assert seen == [
        (400, "malformed_json"),
        (413, "payload_too_large"),
        (422, "invalid_request"),
        (422, "invalid_request"),
    ]
    good = await callers.predict(protocol, "own", **{"X-Request-Id": "mine-2"})
    assert (good.status_code, good.headers["x-request-id"]) == (200, "mine-2")


@EVERY
async def test_a_deadline_is_kept(callers: Callers, protocol: str) -> None:
    callers.server.engine.go.clear()
    late = await callers.predict(protocol, "own", **{"X-Request-Timeout-Ms": "30"})
    callers.server.engine.go.set()
    assert (late.status_code, code_of(late)) == (504, "deadline_exceeded")


@EVERY
async def test_a_full_server_says_when_to_come_again(callers: Callers, protocol: str) -> None:
    """The faults of the engine are those of the native routes too."""
    failure = RowFailure("server_overloaded", "the queue is full: try again")
    callers.server.engine.failures[""] = failure
    full = await callers.predict(protocol, "own")
    assert (full.status_code, code_of(full)) == (503, "server_overloaded")
    assert int(full.headers["retry-after"]) >= 1


async def test_they_are_documented_with_their_own_errors(callers: Callers) -> None:
    document = (await callers.server.client.get("/openapi.json")).json()
    described = {
        path: operation["responses"]["404"]["content"]
        for path, item in document["paths"].items()
        for operation in item.values()
        if path.startswith(("/hf", "/v2/models", "/v1/models", "/v1/embeddings"))
    }
    assert len(described) == 10
    for path, content in described.items():
        if path.startswith("/hf"):
            assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            continue
        error = content["application/json"]["schema"]["properties"]["error"]
        assert error["type"] == ("string" if path.startswith("/v2") else "object")


@EVERY
async def test_answers_are_counted_by_adapter_and_tenant(callers: Callers, protocol: str) -> None:
    await callers.predict(protocol, "other")
    lines = (await callers.server.client.get("/metrics")).text.splitlines()
    counted = [
        line for line in lines if line.startswith("prefixrack_adapter_requests_total{") and line.endswith(" 1.0")
    ]
    assert len(counted) == 1
    assert all(label in counted[0] for label in ('tenant="other"', 'adapter="vectors"', 'outcome="ok"'))
