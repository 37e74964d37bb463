"""The client's methods: what they send, what they return, what they raise. Both clients where they could differ."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from prefixrack import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncClient,
    Client,
    NotFoundError,
    PreconditionFailedError,
    UnexpectedTaskError,
    UnprocessableEntityError,
    calls,
)
from prefixrack.errors import STATUS_ERRORS, InternalServerError, InvalidName, ServiceUnavailableError
from prefixrack.types import ClassificationOutput, FailedOutput


def body_of(request: httpx2.Request) -> Any:
    return json.loads(request.content)


def test_predict_sends_inputs_parameters_and_key(script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos")))
    with script.client() as client:
        response = client.predict("intent@7", "hi", top_k=2, threshold=None)
    (request,) = script.requests
    assert str(request.url) == "http://rack/v1/intent@7/predict"
    assert body_of(request) == {"inputs": "hi", "parameters": {"top_k": 2}}
    assert request.headers["authorization"] == "Bearer pr_a_b"
    assert request.headers["user-agent"].startswith("prefixrack-python/")
    assert isinstance(response.outputs[0], ClassificationOutput)


def test_lone_surrogates_reach_the_server(script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos")))
    script.client().predict("intent", "a\ud800b")
    assert b"a\\ud800b" in script.requests[0].content


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a b", "é", "a?b", "a\n", "\ud800"])
def test_a_name_that_is_no_name_is_refused_before_sending(script: Any, name: str) -> None:
    with pytest.raises(InvalidName):
        script.client().predict(name, "hi")
    assert script.requests == []


@pytest.mark.parametrize("status", [*STATUS_ERRORS, 418, 501, 302])
def test_errors_by_status(script: Any, wire: Any, status: int) -> None:
    script.queue(wire.problem(status, "some_code", {"retry-after-ms": "20"}))
    with pytest.raises(APIStatusError) as caught:
        script.client(max_retries=0).get_adapter("intent")
    error = caught.value
    expected = STATUS_ERRORS.get(status, InternalServerError if status >= 500 else APIStatusError)
    assert type(error) is expected
    assert (error.code, error.request_id, error.retry_after, error.status) == ("some_code", "req-9", 0.02, status)
    assert error.body["detail"] == str(error) == "some_code: seen x, allowed y"
    assert error.response.status_code == status


def test_an_error_that_is_no_problem_document(script: Any) -> None:
    script.queue(httpx2.Response(502, text="<h1>Bad\n gateway</h1>", headers={"x-request-id": "proxy-1"}))
    with pytest.raises(APIStatusError, match="answered 502: <h1>Bad gateway</h1>") as caught:
        script.client(max_retries=0).get_adapter("intent")
    assert (caught.value.code, caught.value.request_id) == (None, "proxy-1")


@pytest.mark.parametrize("content", [b"<html>", b"{}", b"[]", b"\xff"])
def test_a_success_that_is_none_of_ours(script: Any, content: bytes) -> None:
    script.queue(httpx2.Response(200, content=content))
    with pytest.raises(APIConnectionError, match="base URL"):
        script.client().predict("intent", "hi")


def test_a_wrong_number_of_outputs_is_no_answer(script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos")))
    with pytest.raises(APIConnectionError, match="1 outputs for 2 inputs"):
        script.client().predict("intent", ["a", "b"])


def test_fan_out(script: Any, wire: Any) -> None:
    result = {"adapter": {"name": "a", "version": 1, "digest": "d"}, "task": "text-classification"}
    results = {"a@1": result | {"outputs": [wire.label("pos")]}, "b": wire.failed("adapter_not_found")}
    usage = {"tokens": 1, "rows": 1, "truncated": 0}
    script.queue(httpx2.Response(200, json={"id": "r", "results": results, "usage": usage}))
    answer = script.client().fan_out(["a", "b"], "hi")
    assert body_of(script.requests[0]) == {"adapters": ["a", "b"], "inputs": "hi"}
    assert isinstance(answer.results["b"], FailedOutput)


def test_typed_methods_return_one_for_one_and_a_list_for_a_list(script: Any, wire: Any) -> None:
    client = script.client()
    script.queue(wire.prediction(wire.label("pos")))
    assert client.classify("intent", "hi").label == "pos"
    script.queue(wire.prediction(wire.label("pos"), wire.failed()))
    first, second = client.classify("intent", ["hi", ""])
    assert (first.label, second.error.code) == ("pos", "empty_input")


async def test_a_tuple_of_inputs_is_many_inputs(script: Any, wire: Any) -> None:
    client = script.client()
    script.queue(*[wire.prediction(wire.label("pos"), wire.label("neg")) for _ in range(3)])
    script.queue(wire.problem(422, "all_inputs_failed", errors=[wire.failed()["error"]] * 2))
    assert len(client.predict("intent", ("a", "b")).outputs) == 2
    assert body_of(script.requests[0]) == {"inputs": ["a", "b"]}
    assert [one.label for one in client.classify("intent", ("a", "b"))] == ["pos", "neg"]
    assert [one.label for one in await script.async_client().classify("intent", ("a", "b"))] == ["pos", "neg"]
    assert [one.error.code for one in client.classify("intent", ("", ""))] == ["empty_input"] * 2


def test_each_typed_method_has_its_task(script: Any, wire: Any) -> None:
    client = script.client()
    span = {"label": "PER", "start": 0, "end": 3, "text": "Ada", "score": 0.9}
    script.queue(wire.prediction({"spans": [span]}, task="token-classification"))
    assert client.ner("ner", "Ada").spans[0].text == "Ada"
    script.queue(wire.prediction({"answer": None, "no_answer_score": 1, "answers": []}, task="question-answering"))
    assert client.answer("qa", {"question": "q", "context": "c"}).answer is None
    script.queue(wire.prediction({"choice": 1, "scores": [0.1, 0.9]}, task="multiple-choice"))
    assert client.choose("copa", {"text": "t", "choices": ["a", "b"]}).choice == 1
    script.queue(wire.prediction({"embedding": [0.5, -1.0]}, task="text-embedding"))
    assert client.embed("vectors", {"title": "t", "text": "x"}).embedding == [0.5, -1.0]


async def test_embed_awaited(script: Any, wire: Any) -> None:
    script.queue(wire.prediction({"embedding": [1.0]}, wire.failed(), task="text-embedding"))
    vector, failure = await script.async_client().embed("vectors", ["a", ""])
    assert (vector.embedding, failure.error.code) == ([1.0], "empty_input")


def test_outputs_over_candidates(script: Any, wire: Any) -> None:
    scores = [{"label": "yes", "score": 0.7}]
    judged = {"judged": [{"text": "a", "label": "yes", "score": 0.7, "scores": scores}]}
    script.queue(wire.prediction(judged, {"entity": "Oslo", "score": 1.0, "entities": scores}))
    first, second = script.client().classify("multi", ["a", "b"])
    assert (first.judged[0].label, second.entity) == ("yes", "Oslo")


def test_the_wrong_task_names_the_right_method(script: Any, wire: Any) -> None:
    script.queue(wire.prediction({"spans": []}, task="token-classification"))
    with pytest.raises(UnexpectedTaskError, match=r"intent@3 does token-classification.*call ner\(\)"):
        script.client().classify("intent", "hi")


def test_a_single_failed_input_is_raised_with_its_own_code(script: Any, wire: Any) -> None:
    client = script.client()
    script.queue(wire.prediction(wire.failed()))
    with pytest.raises(UnprocessableEntityError, match="the text is empty") as caught:
        client.classify("intent", "")
    assert caught.value.code == "empty_input"
    script.queue(wire.problem(422, "all_inputs_failed", errors=[wire.failed()["error"]]))
    with pytest.raises(UnprocessableEntityError) as caught:
        client.classify("intent", "")
    assert (caught.value.code, caught.value.request_id) == ("empty_input", "req-9")


def test_a_list_of_nothing_but_failures_is_a_list(script: Any, wire: Any) -> None:
    errors = [wire.failed()["error"], wire.failed("invalid_input")["error"]]
    script.queue(wire.problem(422, "all_inputs_failed", errors=errors))
    failures = script.client().classify("intent", ["", 3])
    assert [failure.error.code for failure in failures] == ["empty_input", "invalid_input"]


def test_a_refused_request_is_raised_for_a_list_too(script: Any, wire: Any) -> None:
    script.queue(wire.problem(422, "invalid_request"))
    with pytest.raises(UnprocessableEntityError):
        script.client().classify("intent", ["a"], top_k=0)


def test_lists_follow_the_cursor(script: Any, wire: Any) -> None:
    script.queue(wire.page([wire.summary("a")], "c1"), wire.page([], "c2"), wire.page([wire.summary("b")]))
    names = [adapter.name for adapter in script.client().list_adapters(search="x", page_size=1)]
    assert names == ["a", "b"]
    assert [dict(request.url.params).get("cursor") for request in script.requests] == [None, "c1", "c2"]
    assert dict(script.requests[1].url.params) == {"limit": "1", "search": "x", "cursor": "c1"}


def test_pages_are_fetched_as_they_are_needed(script: Any, wire: Any) -> None:
    script.queue(wire.page([wire.version()], "c1"))
    assert next(script.client().list_versions("intent")).version == 1
    assert len(script.requests) == 1


async def test_async_lists(script: Any, wire: Any) -> None:
    script.queue(wire.page([wire.summary("a")], "c1"), wire.page([wire.summary("b")]))
    async with script.async_client() as client:
        assert [adapter.name async for adapter in client.list_adapters()] == ["a", "b"]


def test_promotion_moves_only_what_it_saw(script: Any, wire: Any) -> None:
    script.queue(wire.alias(1), wire.alias(2, previous=1))
    assert script.client().promote("intent", 2).previous_version == 1
    put = script.requests[1]
    assert (put.method, put.headers["if-match"], body_of(put)) == ("PUT", '"1"', {"version": 2})
    assert put.url.path == "/admin/v1/adapters/intent/aliases/production"


def test_the_first_promotion_creates_the_alias(script: Any, wire: Any) -> None:
    script.queue(wire.problem(404, "alias_not_found"), wire.alias(2))
    script.client().promote("intent", 2, alias="stable")
    assert script.requests[1].headers["if-none-match"] == "*"


@pytest.mark.parametrize(("require", "sent"), [("f1>=0.9", ["f1>=0.9"]), (["a>1", "b<2"], ["a>1", "b<2"]), ([], None)])
async def test_promotion_asks_for_claims(script: Any, wire: Any, require: Any, sent: Any) -> None:
    script.queue(wire.alias(1), wire.alias(2, previous=1), wire.problem(404, "alias_not_found"), wire.alias(2))
    assert script.client().promote("intent", 2, require=require).claims == []
    async with script.async_client() as client:
        await client.promote("intent", 2, require=require)
    assert [body_of(script.requests[index]).get("require") for index in (1, 3)] == [sent, sent]


def test_a_requirement_that_is_not_met_is_not_asked_again(script: Any, wire: Any) -> None:
    script.queue(wire.alias(1), wire.problem(412, "requirement_not_met"))
    with pytest.raises(PreconditionFailedError) as refused:
        script.client().promote("intent", 2, require=["f1>=0.9"])
    assert refused.value.code == "requirement_not_met"
    assert len(script.requests) == 2


def test_promotion_of_an_unknown_adapter_is_not_tried(script: Any, wire: Any) -> None:
    script.queue(wire.problem(404, "adapter_not_found"))
    with pytest.raises(NotFoundError):
        script.client().promote("nobody", 1)
    assert len(script.requests) == 1


def test_rollback_is_one_request_that_is_never_repeated(script: Any, wire: Any) -> None:
    script.queue(wire.alias(4, previous=5))
    assert script.client().rollback("intent").version == 4
    assert [(request.method, request.url.path) for request in script.requests] == [
        ("POST", "/admin/v1/adapters/intent/aliases/production/rollback")
    ]
    script.queue(wire.problem(503, "registry_unavailable"))
    with pytest.raises(ServiceUnavailableError):
        script.client().rollback("intent")
    assert len(script.requests) == 2


def test_canary_and_shadow_leave_each_other_and_the_version_where_they_are(script: Any, wire: Any) -> None:
    canary = {"version": 6, "digest": "d", "share": 0.25}
    script.queue(wire.alias(5), wire.alias(5, canary=canary), wire.alias(5, canary=canary), wire.alias(5))
    client = script.client()
    started = client.start_canary("intent", 6, 0.25)
    assert started.canary is not None
    assert started.canary.share == 0.25
    client.start_shadow("intent", 7)
    assert [body_of(request) for request in script.requests[1::2]] == [
        {"version": 5, "canary": {"version": 6, "share": 0.25}},
        {"version": 5, "canary": {"version": 6, "share": 0.25}, "shadow": 7},
    ]
    assert script.requests[1].headers["if-match"] == '"5"'


def test_gates_and_routing_keys(script: Any, wire: Any) -> None:
    gates = {"name": "intent", "alias": "production", "require": ["f1>=0.9"]}
    script.queue(httpx2.Response(200, json=gates), httpx2.Response(200, json=gates))
    assert script.client().set_gates("intent", ["f1>=0.9"]).require == ["f1>=0.9"]
    assert script.client().get_gates("intent").alias == "production"
    assert body_of(script.requests[0]) == {"require": ["f1>=0.9"]}
    assert "routing_key" not in calls.predict("intent", "a", {}).request.content.decode()
    assert '"routing_key":"ada"' in calls.predict("intent", "a", {}, "ada").request.content.decode()


async def test_async_promotion_and_rollback(script: Any, wire: Any) -> None:
    script.queue(wire.problem(404, "alias_not_found"), wire.alias(2), wire.alias(1))
    async with script.async_client() as client:
        await client.promote("intent", 2)
        assert (await client.rollback("intent")).version == 1


def test_admin_routes(script: Any, wire: Any) -> None:
    client = script.client()
    residency = {"name": "intent", "version": 1, "digest": "d", "keep_resident": True, "state": "loading"}
    key = {"id": "k1", "tenant": "default", "scopes": ["predict"], "created_at": "now", "secret": "pr_k1_x"}
    script.queue(*[httpx2.Response(204)] * 4, httpx2.Response(200, json=residency), httpx2.Response(201, json=key))
    client.delete_version("intent", 2)
    client.delete_adapter("intent")
    client.delete_alias("intent", "stable")
    client.revoke_key("k1")
    assert client.set_residency("intent", 1, True).state == "loading"
    assert client.create_key(["predict"], expires_at="2030-01-01T00:00:00Z").secret == "pr_k1_x"
    assert [f"{request.method} {request.url.path}" for request in script.requests] == [
        "DELETE /admin/v1/adapters/intent/versions/2",
        "DELETE /admin/v1/adapters/intent",
        "DELETE /admin/v1/adapters/intent/aliases/stable",
        "DELETE /admin/v1/keys/k1",
        "PUT /admin/v1/adapters/intent/versions/1/residency",
        "POST /admin/v1/keys",
    ]
    assert body_of(script.requests[4]) == {"keep_resident": True}
    assert body_of(script.requests[5]) == {"scopes": ["predict"], "expires_at": "2030-01-01T00:00:00Z"}


def test_health_is_asked_once(script: Any, wire: Any) -> None:
    client = script.client()
    script.queue(httpx2.Response(200), httpx2.Response(200))
    assert client.health().ready
    script.queue(httpx2.Response(200), wire.problem(503, "not_ready"))
    health = client.health()
    assert (health.live, health.ready, health.reason) == (True, False, "not_ready: seen x, allowed y")
    script.queue(httpx2.ConnectError("refused"))
    with pytest.raises(APIConnectionError):
        client.health()
    assert script.pauses == []


@pytest.mark.parametrize("client_class", [Client, AsyncClient])
def test_server_and_key_come_from_the_environment(
    client_class: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client_class().base_url == "http://localhost:8000"
    monkeypatch.setenv("PREFIXRACK_BASE_URL", "https://rack.example/base/")
    assert client_class().base_url == "https://rack.example/base"
    assert client_class("http://other").base_url == "http://other"


def test_the_environments_key_is_sent(script: Any, wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXRACK_API_KEY", "pr_env_1\n")
    script.queue(wire.prediction(wire.label("pos")))
    script.client(api_key=None).predict("intent", "hi")
    assert script.requests[0].headers["authorization"] == "Bearer pr_env_1"


@pytest.mark.parametrize(
    "options",
    [{"base_url": "localhost:8000"}, {"api_key": "pr_é"}, {"timeout_s": 0}, {"max_retries": -1}, {"deadline_s": 0}],
)
def test_unusable_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is|holds"):
        Client(**options)


def test_a_borrowed_http_client_stays_open(script: Any) -> None:
    with httpx2.Client(transport=httpx2.MockTransport(script.respond)) as http:
        Client(http_client=http).close()
        assert not http.is_closed
    own = script.client()
    own.with_options(max_retries=0).close()
    own.close()
    with pytest.raises(RuntimeError):
        own.get_adapter("intent")


def test_both_clients_offer_the_same() -> None:
    names = [{name for name in vars(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert names[0] == names[1]


def test_the_error_tree() -> None:
    assert issubclass(UnexpectedTaskError, APIError)
    assert all(issubclass(kind, APIStatusError) for kind in STATUS_ERRORS.values())


@pytest.mark.parametrize(
    ("base_url", "ending"),
    [
        ("http://rack/v1", "the base URL ends in /v1, which the client adds itself: leave it out"),
        ("http://rack", "gone"),
    ],
)
def test_a_base_url_with_the_version_is_named(script: Any, base_url: str, ending: str) -> None:
    script.queue(httpx2.Response(404, json={"detail": "gone", "code": "route_not_found"}))
    with httpx2.Client(transport=httpx2.MockTransport(script.respond)) as http, pytest.raises(NotFoundError) as caught:
        Client(base_url, http_client=http).classify("intent", "hello")
    assert str(caught.value).endswith(ending)
