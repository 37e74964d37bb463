"""Aliases with a canary, a shadow and gates: who answers whom, what is counted, and one call back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefixrack_server import traffic
from prefixrack_server.agreement import agree
from prefixrack_server.registry.rollouts import Rollout, Route

NUM_REQUESTS = 20_000
SHARE = 0.1
CLAIM = {"name": "f1", "value": 0.95, "dataset": "d", "split": "dev"}
METRIC = [CLAIM]


class Shelved:
    """What a route needs to know of a version."""

    def __init__(self, number: int) -> None:
        self.tenant, self.name, self.number = "default", "a", number


def route_of(share: float, alias: str = "production") -> Route:
    return Route(Shelved(1), Rollout(alias, Shelved(2), share, None))  # type: ignore[arg-type]


def canary_keys(route: Route, num_keys: int = NUM_REQUESTS) -> set[str]:
    return {key for key in map("user-{}".format, range(num_keys)) if route.choose(key)[1] == "canary"}


def test_the_split_by_key_is_within_one_point_and_sticks() -> None:
    chosen = canary_keys(route_of(SHARE))
    assert abs(len(chosen) / NUM_REQUESTS - SHARE) < 0.01
    assert canary_keys(route_of(SHARE)) == chosen
    assert chosen < canary_keys(route_of(2 * SHARE))  # who was in a share stays when it grows
    other = canary_keys(route_of(SHARE, "staging"))
    assert abs(len(chosen & other) / NUM_REQUESTS - SHARE**2) < 0.01  # another alias has other callers


def test_the_split_without_keys_is_within_one_point() -> None:
    roles = [route_of(SHARE).choose(None)[1] for _ in range(NUM_REQUESTS)]
    assert abs(roles.count("canary") / NUM_REQUESTS - SHARE) < 0.01


async def upload_two(server: Any, bundles: Any, **options: Any) -> None:
    for seed in (1, 2, 3):
        assert (await server.upload(bundles("intent", seed=seed, **options))).status_code == 201


async def put(server: Any, body: dict[str, Any], alias: str = "production", etag: str | None = "*") -> Any:
    headers = {} if etag is None else {"If-Match": etag}
    url = f"/admin/v1/adapters/intent/aliases/{alias}"
    return await server.client.put(url, json=body, headers=headers)


async def version_for(server: Any, key: str | None, **body: Any) -> int:
    headers = {} if key is None else {"X-Routing-Key": key}
    answer = await server.client.post("/v1/intent/predict", json={"inputs": "hello", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["adapter"]["version"]
    return version


async def test_a_canary_answers_its_share_by_header_or_field(server: Any, bundles: Any) -> None:
    await upload_two(server, bundles)
    await put(server, {"version": 1}, etag=None)
    answer = await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}})
    assert answer.json()["canary"]["version"] == 2
    route = await server.registry.route("default", "intent")
    by_key = {f"user-{number}": route.choose(f"user-{number}")[0].number for number in range(20)}
    assert set(by_key.values()) == {1, 2}
    for key, number in by_key.items():
        assert await version_for(server, key) == number
        assert await version_for(server, None, routing_key=key) == number
    fan_out = await server.client.post(
        "/v1/predict", json={"adapters": ["intent"], "inputs": "hello", "routing_key": "user-0"}
    )
    assert list(fan_out.json()["results"]) == [f"intent@{by_key['user-0']}"]
    assert (await server.predict("intent@3", "hello")).json()["adapter"]["version"] == 3
    for role, number in (("stable", 1), ("canary", 2)):
        expected = 2 * list(by_key.values()).count(number) + (number == by_key["user-0"])
        assert await num_counted(server, role, number) == expected


async def canary_key(server: Any) -> str:
    """A caller who falls to the canary."""
    route = await server.registry.route("default", "intent")
    return next(key for key in map("user-{}".format, range(99)) if route.choose(key)[1] == "canary")


async def num_counted(server: Any, role: str, number: int, outcome: str = "ok") -> int:
    """The requests that the metrics of the rollout of `intent@production` have."""
    name = (
        f'prefixrack_rollout_requests_total{{adapter="intent",alias="production",outcome="{outcome}",role="{role}",'
        f'tenant="default",version="{number}"}}'
    )
    lines = (await server.client.get("/metrics")).text.splitlines()
    return int(float(next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), "0")))


async def test_bulk_lines_go_to_one_version_by_header(server: Any, bundles: Any) -> None:
    await upload_two(server, bundles)
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}}, etag=None)
    key = await canary_key(server)
    before = len(server.engine.submitted)
    lines = b'{"inputs": "hello"}\n' * 5 + b'{"inputs": 7}\n'
    headers = {"Content-Type": "application/jsonl", "X-Routing-Key": key}
    answer = await server.client.post("/v1/intent/predict", content=lines, headers=headers)
    assert answer.status_code == 200
    digests = {work.bundle.digest for batch in server.engine.submitted[before:] for work in batch}
    assert digests == {(await server.registry.resolve("default", "intent@2")).digest}
    assert await num_counted(server, "canary", 2) == 5
    assert "error" in json.loads(answer.text.splitlines()[-1])
    assert await num_counted(server, "canary", 2, "client_error") == 1
    assert await num_counted(server, "stable", 1) == 0


async def test_a_fan_out_counts_each_alias_with_a_rollout_by_what_came_of_it(server: Any, bundles: Any) -> None:
    await upload_two(server, bundles)
    assert (await server.upload(bundles("other", seed=4))).status_code == 201
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}}, etag=None)
    adapters = ["intent", "intent@production", "other", "nobody"]
    body: dict[str, Any] = {"adapters": adapters, "inputs": "hello", "routing_key": await canary_key(server)}
    assert set((await server.client.post("/v1/predict", json=body)).json()["results"]) == {
        "intent@2",
        "other@1",
        "nobody",
    }
    assert await num_counted(server, "canary", 2) == 1
    answer = await server.client.post("/v1/predict", json=body | {"parameters": {"null_threshold": 0.5}})
    assert answer.json()["results"]["intent@2"]["error"] if answer.is_success else answer.json()["code"]
    assert await num_counted(server, "canary", 2, "client_error") == 1
    assert await num_counted(server, "canary", 2) == 1


async def test_versions_of_rollouts_beyond_a_number_are_counted_together(
    serving: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "MAX_ROLLOUT_VERSIONS", 1)
    async with serving() as server:
        await upload_two(server, bundles)
        await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}}, etag=None)
        key = await canary_key(server)
        assert await version_for(server, key) == 2
        await put(server, {"version": 1, "canary": {"version": 3, "share": 0.5}})
        assert await version_for(server, key) == 3
        assert await version_for(server, key) == 3
        seen = [line for line in await rollout_lines(server) if 'outcome="ok"' in line]
        assert len(seen) == 2
        assert any('adapter="_other"' in line and line.endswith(" 2.0") for line in seen)


async def rollout_lines(server: Any) -> list[str]:
    """What the metrics say of requests for rollouts, those without labels of their own first."""
    metrics = (await server.client.get("/metrics")).text
    return [line for line in metrics.splitlines() if line.startswith("prefixrack_rollout_requests_total{")]


async def test_where_no_rollout_is_counted_the_database_is_not_asked(server: Any) -> None:
    no_registry = None
    await server.app.state.services.rollouts.turn(no_registry)


async def test_the_labels_of_a_rollout_go_after_its_end(server: Any, bundles: Any) -> None:
    """Not at once: it is scraped once more. What runs stays, and what runs again begins anew."""
    await upload_two(server, bundles)
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}, "shadow": 3}, etag=None)
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}}, alias="staging", etag=None)
    rollouts, key = server.app.state.services.rollouts, await canary_key(server)
    for ref in ("intent", "intent@staging"):
        assert (await server.client.post(f"/v1/{ref}/predict", json={"inputs": "hello", "routing_key": key})).is_success
    await put(server, {"version": 2})
    await rollouts.turn(server.registry)
    assert any('alias="production"' in line for line in await rollout_lines(server))
    await rollouts.turn(server.registry)
    lines = await rollout_lines(server)
    assert not [line for line in lines if 'alias="production"' in line]
    assert [line for line in lines if 'alias="staging"' in line]
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}})
    assert await version_for(server, key) == 2
    assert await num_counted(server, "canary", 2) == 1
    await rollouts.turn(server.registry)
    await rollouts.turn(server.registry)
    assert await num_counted(server, "canary", 2) == 1


@pytest.mark.parametrize("key", ["", "k" * 257])
async def test_routing_keys_out_of_range(server: Any, bundles: Any, key: str) -> None:
    await upload_two(server, bundles)
    for answer in (
        await server.client.post("/v1/intent/predict", json={"inputs": "hello", "routing_key": key}),
        await server.client.post("/v1/intent/predict", json={"inputs": "hello"}, headers={"X-Routing-Key": key}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    answer = await server.client.post("/v1/intent/predict", json={"inputs": "hello", "routing_key": 7})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_shadow_computes_and_is_compared_and_answers_nobody(server: Any, bundles: Any, until: Any) -> None:
    await upload_two(server, bundles)
    await put(server, {"version": 1, "shadow": 2}, etag=None)
    shadow = (await server.registry.resolve("default", "intent@2")).digest
    before = len(server.engine.submitted)
    for word in ("hello", "world", "good", "bad"):
        assert (await server.predict("intent", word)).json()["adapter"]["version"] == 1
    await until(
        lambda: sum(row.bundle.digest == shadow for rows in server.engine.submitted[before:] for row in rows) == 4
    )
    await until(lambda: not server.app.state.services.rollouts.num_shadows)
    counts = await agreements(server)
    assert set(counts) <= {"same", "different"}
    assert sum(counts.values()) == 4


async def agreements(server: Any) -> dict[str, float]:
    """How often the metrics have each agreement of shadows, those that never were left out."""
    counts: dict[str, float] = {}
    for family in text_string_to_metric_families((await server.client.get("/metrics")).text):
        for sample in family.samples:
            if sample.name == "prefixrack_shadow_outputs_total" and sample.value:
                agreement = sample.labels["agreement"]
                counts[agreement] = counts.get(agreement, 0.0) + sample.value
    return counts


async def test_a_shadow_that_fails_spoils_nothing(server: Any, bundles: Any, until: Any) -> None:
    await upload_two(server, bundles)
    await put(server, {"version": 1, "shadow": 2}, etag=None)
    from prefixrack_server.messages import RowFailure

    shadow = (await server.registry.resolve("default", "intent@2")).digest
    server.engine.failures[shadow] = RowFailure("blob_unusable", "damaged")
    assert (await server.predict("intent", "hello")).status_code == 200
    services = server.app.state.services
    await until(lambda: not services.rollouts.num_shadows)
    # A row's own failure is an output like another: it does not say what was answered.
    assert await agreements(server) in ({"different": 1}, {"failed": 1})


async def test_rollback_is_one_call(server: Any, bundles: Any) -> None:
    await upload_two(server, bundles)
    url = "/admin/v1/adapters/intent/aliases/production/rollback"
    assert (await server.client.post(url)).json()["code"] == "alias_not_found"
    await put(server, {"version": 1}, etag=None)
    answer = await server.client.post(url)
    assert (answer.status_code, answer.json()["code"]) == (412, "precondition_failed")
    assert "nothing to roll back" in answer.json()["detail"]
    await put(server, {"version": 2, "canary": {"version": 3, "share": 0.5}, "shadow": 1})
    answer = await server.client.post(url, headers={"If-Match": '"0"'})
    assert answer.status_code == 412
    answer = await server.client.post(url)  # a canary goes first
    assert answer.status_code == 200
    assert (answer.json()["version"], answer.json()["canary"], answer.json()["shadow_version"]) == (2, None, None)
    answer = await server.client.post(url)
    assert (answer.json()["version"], answer.json()["previous_version"]) == (1, 2)
    assert await version_for(server, None) == 1
    assert answer.headers["etag"] == answer.json()["etag"]


async def test_versions_in_a_rollout_cannot_be_deleted(server: Any, bundles: Any) -> None:
    await upload_two(server, bundles)
    await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}, "shadow": 3}, etag=None)
    for number in (1, 2, 3):
        answer = await server.client.delete(f"/admin/v1/adapters/intent/versions/{number}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await server.client.delete("/admin/v1/adapters/intent")).status_code == 204


async def test_gates_hold_for_whatever_is_to_answer(server: Any, bundles: Any) -> None:
    gates = "/admin/v1/adapters/intent/aliases/production/gates"
    assert (await server.client.put(gates, json={"require": ["f1>=0.9"]})).json()["code"] == "adapter_not_found"
    assert (await server.upload(bundles("intent", seed=1, metrics=METRIC))).status_code == 201
    assert (await server.upload(bundles("intent", seed=2))).status_code == 201
    assert (await server.client.put(gates, json={"require": ["f1 is high"]})).status_code == 422
    assert (await server.client.put(gates, json={"require": ["f1>=0.9"]})).json()["require"] == ["f1>=0.9"]
    assert (await server.client.get(gates)).json()["require"] == ["f1>=0.9"]
    refused = await put(server, {"version": 2}, etag=None)
    assert (refused.status_code, refused.json()["code"]) == (412, "requirement_not_met")
    moved = await put(server, {"version": 1}, etag=None)
    assert moved.json()["claims"][0]["value"] == 0.95
    refused = await put(server, {"version": 1, "canary": {"version": 2, "share": 0.5}})
    assert refused.json()["code"] == "requirement_not_met"
    assert (await put(server, {"version": 1, "shadow": 2})).status_code == 200
    url = "/admin/v1/adapters/intent/aliases/production"
    answer = await server.client.delete(url)
    assert (answer.status_code, "protected" in answer.json()["detail"]) == (409, True)
    assert (await put(server, {"version": 2}, alias="staging", etag=None)).status_code == 200
    assert (await server.client.put(gates, json={"require": []})).json()["require"] == []
    assert (await server.client.delete(url)).status_code == 204


@pytest.mark.parametrize("share", [0, 1, -0.5, 2, "half"])
async def test_shares_out_of_range(server: Any, bundles: Any, share: Any) -> None:
    await upload_two(server, bundles)
    answer = await put(server, {"version": 1, "canary": {"version": 2, "share": share}}, etag=None)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("canary.share: Input should be ")
    assert answer.json()["detail"].endswith(f"; seen {'a JSON string' if share == 'half' else share}")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"label": "a", "score": 0.9}, {"label": "a", "score": 0.6}, True),
        ({"label": "a"}, {"label": "b"}, False),
        ({"labels": [{"label": "x"}, {"label": "y"}]}, {"labels": [{"label": "y"}, {"label": "x"}]}, True),
        ({"value": 3.2}, {"value": 3.201}, True),
        ({"value": 3.2}, {"value": 4.0}, False),
        ({"spans": [{"start": 0, "end": 3, "label": "P"}]}, {"spans": []}, False),
        ({"answer": None}, {"answer": {"start": 0, "end": 2}}, False),
        ({"answer": {"start": 0, "end": 2, "score": 1}}, {"answer": {"start": 0, "end": 2, "score": 0.5}}, True),
        ({"choice": 1}, {"choice": 1, "scores": [0, 1]}, True),
        ({"embedding": [1.0, 0.0]}, {"embedding": [1.0, 0.01]}, True),
        ({"embedding": [1.0, 0.0]}, {"embedding": [0.0, 1.0]}, False),
        ({"label": "a"}, {"error": {"code": "empty_input"}}, False),
        ({"error": {"code": "empty_input"}}, {"error": {"code": "empty_input"}}, True),
    ],
)
def test_agreement_is_of_decisions(one: dict[str, Any], other: dict[str, Any], is_same: bool) -> None:
    assert agree(one, other) is is_same
