"""Predicting over HTTP: right answers, and an answer with a name to every wrong request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prefixrack.types import FanOutResponse, PredictResponse
from prefixrack_server.messages import RowFailure


@pytest.fixture
async def ready(server: Any, bundles: Any) -> Any:
    """A server with one adapter for each task."""
    for name, task in [
        ("intent", "text-classification"),
        ("ner", "token-classification"),
        ("qa", "question-answering"),
        ("choice", "multiple-choice"),
        ("vectors", "text-embedding"),
    ]:
        assert (await server.upload(bundles(name, task))).status_code == 201
    return server


async def test_predict_answers_one_input(ready: Any, bundles: Any) -> None:
    response = await ready.predict("intent", "hello world")
    assert response.status_code == 200, response.text
    body = response.json()
    answer = PredictResponse.model_validate(body)
    assert answer.adapter.name == "intent"
    assert answer.adapter.version == 1
    assert answer.adapter.digest == bundles("intent").digest
    assert answer.id == response.headers["x-request-id"]
    assert body["usage"] == {"tokens": 4, "rows": 1, "truncated": 0}
    assert sorted(entry["label"] for entry in body["outputs"][0]["scores"]) == ["bad", "good"]
    assert sum(entry["score"] for entry in body["outputs"][0]["scores"]) == pytest.approx(1)
    assert set(body["timings_ms"]) == {"tokenize", "queue", "compute", "total"}


async def test_predict_keeps_the_order_of_inputs(ready: Any) -> None:
    texts = [f"hello {word}" for word in "abcdefghijklmnopqrstuvwxyz"]
    together = (await ready.predict("intent", texts)).json()["outputs"]
    alone = [(await ready.predict("intent", text)).json()["outputs"][0] for text in texts[:3]]
    assert len(together) == 26
    assert together[:3] == alone


@pytest.mark.parametrize(
    ("adapter", "inputs", "keys"),
    [
        ("ner", "hello a world", {"spans"}),
        ("ner", {"tokens": ["hello", "world"]}, {"spans", "tags"}),
        ("qa", {"question": "hello?", "context": "good world"}, {"answer", "no_answer_score", "answers"}),
        ("choice", {"text": "hello", "choices": ["good", "bad", "world"]}, {"choice", "scores"}),
        ("vectors", {"title": "hello", "text": "good world"}, {"embedding"}),
    ],
)
async def test_every_task_answers(ready: Any, adapter: str, inputs: Any, keys: set[str]) -> None:
    response = await ready.predict(adapter, inputs)
    assert response.status_code == 200, response.text
    PredictResponse.model_validate(response.json())
    assert keys <= set(response.json()["outputs"][0])


async def test_refs_name_versions_and_aliases(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("intent", seed=1))
    versions = [(await ready.predict(ref, "hello")).json()["adapter"]["version"] for ref in ("intent", "intent@1")]
    assert versions == [2, 1]
    await ready.client.put("/admin/v1/adapters/intent/aliases/production", json={"version": 1})
    refs = ("intent", "intent@production", "intent@latest")
    assert [(await ready.predict(ref, "hello")).json()["adapter"]["version"] for ref in refs] == [1, 1, 2]


async def test_a_request_stays_with_the_version_it_was_bound_to(ready: Any, bundles: Any, until: Any) -> None:
    ready.engine.go.clear()
    waiting = asyncio.create_task(ready.predict("intent", "hello"))
    await until(lambda: ready.engine.submitted[-1][0].priority == 0)
    await ready.client.delete("/admin/v1/adapters/intent")
    ready.engine.go.set()
    assert (await waiting).json()["adapter"]["digest"] == bundles("intent").digest
    assert (await ready.predict("intent", "hello")).status_code == 404


BROKEN_JSON = [
    b"{",
    b"",
    b'{"inputs": "a"',
    b'{"inputs": NaN}',
    b'{"inputs": 1e400}',
    b"[" * 100_000,
    b"\xff\xfe{}",
    b"1" * 5000,
]


@pytest.mark.parametrize("body", BROKEN_JSON)
async def test_malformed_json(ready: Any, body: bytes) -> None:
    response = await ready.client.post("/v1/intent/predict", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    "body",
    [
        [],
        "hello",
        {},
        {"input": "hello"},
        {"inputs": "hello", "extra": 1},
        {"inputs": []},
        {"inputs": "hello", "parameters": []},
        {"inputs": "hello", "parameters": {"tok_k": 1}},
        {"inputs": "hello", "parameters": {"top_k": 0}},
        {"inputs": "hello", "parameters": {"top_k": "many"}},
        {"inputs": "hello", "parameters": {"n_best": 3}},
        {"inputs": "hello", "parameters": {"\ud800": 3}},
    ],
)
async def test_wrong_envelope(ready: Any, body: Any) -> None:
    response = await ready.client.post(
        "/v1/intent/predict", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("adapter", "wrong", "code"),
    [
        ("intent", "", "empty_input"),
        ("intent", " \n\t ", "empty_input"),
        ("intent", 7, "invalid_input"),
        ("intent", None, "invalid_input"),
        ("intent", {"question": "a", "context": "b"}, "invalid_input"),
        ("intent", "\ud800", "invalid_unicode"),
        ("intent", "a\udfffb", "invalid_unicode"),
        ("intent", "a " * 100, "input_too_long"),
        ("ner", {"tokens": "hello"}, "invalid_input"),
        ("qa", "hello", "invalid_input"),
        ("qa", {"question": "", "context": "a"}, "empty_input"),
        ("choice", {"text": "a", "choices": ["b"]}, "invalid_input"),
        ("vectors", {"title": "a"}, "invalid_input"),
        ("vectors", "a " * 100, "input_too_long"),
    ],
)
async def test_one_wrong_input_does_not_spoil_the_others(ready: Any, adapter: str, wrong: Any, code: str) -> None:
    right = {
        "intent": "hello",
        "ner": "hello",
        "qa": {"question": "a?", "context": "hello"},
        "choice": {"text": "a", "choices": ["b", "c"]},
        "vectors": "hello",
    }[adapter]

    async def post(inputs: Any) -> Any:
        body = json.dumps({"inputs": inputs})
        url, headers = f"/v1/{adapter}/predict", {"Content-Type": "application/json"}
        return await ready.client.post(url, content=body, headers=headers)

    mixed = await post([right, wrong])
    assert mixed.status_code == 200, mixed.text
    assert "error" not in mixed.json()["outputs"][0]
    assert mixed.json()["outputs"][1]["error"]["code"] == code
    alone = await post(wrong)
    assert (alone.status_code, alone.json()["code"]) == (422, "all_inputs_failed")
    assert alone.json()["errors"][0]["code"] == code
    assert alone.json()["errors"][0]["message"]


async def test_nul_is_legal_text(ready: Any) -> None:
    response = await ready.predict("ner", "hello\0world")
    assert response.status_code == 200
    for span in response.json()["outputs"][0]["spans"]:
        assert "hello\0world"[span["start"] : span["end"]] == span["text"]


async def test_too_many_inputs_name_the_bulk_way(ready: Any) -> None:
    response = await ready.predict("intent", ["hello"] * 10_000)
    assert (response.status_code, response.json()["code"]) == (413, "too_many_inputs")
    for part in ("10000", "1024", "application/jsonl"):
        assert part in response.json()["detail"]


async def test_a_megabyte_of_text(ready: Any) -> None:
    text = "hello world " * 90_000
    error = (await ready.predict("intent", text)).json()
    assert (error["status"], error["code"]) == (422, "all_inputs_failed")
    assert error["errors"][0]["code"] == "input_too_long"
    windows = await ready.predict("ner", text)
    assert (windows.status_code, windows.json()["code"]) == (413, "too_many_tokens")
    assert "65536" in windows.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit(serving: Any, bundles: Any, announced: bool) -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    async with serving(limits={"max_body_bytes": 1000}) as server:
        await server.upload(bundles("intent"))
        content = b" " * 2000 if announced else chunks()
        headers = {"Content-Type": "application/json"}
        response = await server.client.post("/v1/intent/predict", content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")
        assert "1000" in response.json()["detail"]


@pytest.mark.parametrize(
    ("ref", "status", "code"),
    [
        ("nobody", 404, "adapter_not_found"),
        ("intent@9", 404, "version_not_found"),
        ("intent@beta", 404, "alias_not_found"),
        ("intent@0", 400, "invalid_name"),
        ("Intent", 400, "invalid_name"),
        ("a%2Fb", 400, "invalid_name"),
        ("a/b", 400, "invalid_name"),
        ("%2e%2e", 400, "invalid_name"),
        ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400, "invalid_name"),
        ("a%00b", 400, "invalid_name"),
        ("%F0%9F%98%80", 400, "invalid_name"),
        ("admin", 400, "invalid_name"),
        ("other:intent", 404, "adapter_not_found"),
    ],
)
async def test_names_that_lead_nowhere(ready: Any, ref: str, status: int, code: str) -> None:
    response = await ready.predict(ref, "hello")
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


async def test_content_type_must_be_json(ready: Any) -> None:
    response = await ready.client.post("/v1/intent/predict", data={"inputs": "hello"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    response = await ready.client.post("/v1/intent/predict", content=b'{"inputs": "hello"}')
    assert response.status_code == 200


async def test_fan_out_shares_one_submission(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("other", seed=5))
    before = len(ready.engine.submitted)
    body = {"adapters": ["intent", "other@1", "nobody", "ner", "intent@latest"], "inputs": ["hello", "good world"]}
    response = await ready.client.post("/v1/predict", json=body)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert set(results) == {"intent@1", "other@1", "nobody", "ner@1"}
    assert results["nobody"]["error"]["code"] == "adapter_not_found"
    assert len(ready.engine.submitted) == before + 1
    FanOutResponse.model_validate(response.json())
    assert response.json()["usage"]["rows"] == 6
    alone = (await ready.predict("other", ["hello", "good world"])).json()
    assert results["other@1"]["outputs"] == alone["outputs"]


async def test_fan_out_faults(ready: Any) -> None:
    for adapters in ([], "intent", [1], [f"a{index}" for index in range(300)]):
        response = await ready.client.post("/v1/predict", json={"adapters": adapters, "inputs": "hello"})
        assert response.json()["code"] == "invalid_request"
    response = await ready.client.post("/v1/predict", json={"adapters": ["x", "y"], "inputs": "hello"})
    assert (response.status_code, response.json()["code"]) == (422, "all_inputs_failed")
    assert [error["adapter"] for error in response.json()["errors"]] == ["x", "y"]


async def fan_out(server: Any, inputs: Any, *adapters: str) -> Any:
    return await server.client.post("/v1/predict", json={"adapters": adapters, "inputs": inputs})


async def test_fan_out_counts_what_the_adapters_see_together(ready: Any) -> None:
    response = await fan_out(ready, ["hello"] * 600, "intent", "ner")
    assert (response.status_code, response.json()["code"]) == (413, "too_many_inputs")
    assert "1024" in response.json()["detail"]
    response = await fan_out(ready, "hello " * 200_000, "intent", "ner")
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


async def test_fan_out_over_the_token_limit_prepares_no_further_adapter(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_tokens": 100}) as server:
        refs = [f"ner@{version}" for version in range(1, 5)]
        for seed in range(len(refs)):
            await server.upload(bundles("ner", "token-classification", seed))
        tokeniser, prepared = server.app.state.services.predictor.tokeniser, []
        prepare = tokeniser.prepare

        async def counting(task: Any, *rest: Any) -> Any:
            prepared.append(task)
            return await prepare(task, *rest)

        tokeniser.prepare = counting
        response = await fan_out(server, "hello " * 60, *refs)
        assert (response.status_code, response.json()["code"]) == (413, "too_many_tokens")
        assert len(prepared) == 2


async def test_fan_out_where_every_input_fails_everywhere(ready: Any, bundles: Any) -> None:
    await ready.upload(bundles("other", seed=5))
    response = await fan_out(ready, ["", "\t"], "intent", "other", "nobody")
    assert (response.status_code, response.json()["code"]) == (422, "all_inputs_failed")
    failed = [(error["adapter"], error["code"]) for error in response.json()["errors"]]
    assert failed == [("nobody", "adapter_not_found")] + [
        (key, "empty_input") for key in ("intent@1", "intent@1", "other@1", "other@1")
    ]


async def test_an_output_that_cannot_be_made_fails_alone(
    ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready.upload(bundles("other", seed=5))

    def broken(*_: Any) -> Any:
        raise KeyError("no such head")

    task = ready.app.state.services.predictor.tokeniser.task(bundles("other", seed=5).digest, None)
    monkeypatch.setattr(task, "finish", broken)
    results = (await fan_out(ready, "hello", "intent", "other")).json()["results"]
    assert "error" not in results["intent@1"]["outputs"][0]
    assert results["other@1"]["outputs"][0]["error"]["code"] == "internal_error"
    alone = await ready.predict("other", "hello")
    assert (alone.status_code, alone.json()["code"]) == (500, "internal_error")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("internal_error", 500),
        ("malformed_bundle", 422),
        ("backbone_mismatch", 422),
        ("not_ready", 503),
        ("deadline_exceeded", 504),
    ],
)
async def test_faults_of_the_engine(ready: Any, code: str, status: int) -> None:
    ready.engine.failures[""] = RowFailure(code, "made to fail")
    response = await ready.predict("intent", ["hello", "world"])
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("Retry-After" in response.headers) == (status == 503)
    ready.engine.failures.clear()
    assert (await ready.predict("intent", "hello")).status_code == 200


async def test_a_row_with_nonfinite_logits_is_that_inputs_error(ready: Any) -> None:
    ready.engine.failures[""] = RowFailure("nonfinite_output", "logits are not finite")
    response = await ready.predict("intent", "hello")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (422, "nonfinite_output")


async def test_deadline(ready: Any, until: Any, pass_time: Any) -> None:
    ready.engine.go.clear()
    headers = {"X-Request-Timeout-Ms": "50000"}
    waiting = asyncio.create_task(ready.client.post("/v1/intent/predict", json={"inputs": "hello"}, headers=headers))
    await until(lambda: ready.engine.submitted[-1][0].priority == 0)
    pass_time(50.0)
    response = await waiting
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert ready.engine.cancelled == [ready.engine.submitted[-1][0].row_id]


async def test_a_slow_body_does_not_count_against_the_deadline(ready: Any, pass_time: Any) -> None:
    async def slowly() -> Any:
        yield b'{"inputs":'
        pass_time(100.0)
        yield b' "hello"}'

    headers = {"Content-Type": "application/json", "X-Request-Timeout-Ms": "50000"}
    response = await ready.client.post("/v1/intent/predict", content=slowly(), headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["timings_ms"]["tokenize"] < 50_000


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1.5", "999999999999", "٣"])
async def test_wrong_timeout_header(ready: Any, value: str) -> None:
    headers = {"X-Request-Timeout-Ms": value.encode()}
    response = await ready.client.post("/v1/intent/predict", json={"inputs": "hello"}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_overload_is_refused_at_the_door(serving: Any, bundles: Any, until: Any) -> None:
    async with serving(limits={"max_queued_rows": 2}) as server:
        await server.upload(bundles("intent"))
        server.engine.go.clear()
        waiting = asyncio.create_task(server.predict("intent", ["hello", "world"]))
        await until(lambda: server.app.state.services.dispatcher.num_rows == 2)
        refused = await server.predict("intent", "hello")
        assert (refused.status_code, refused.json()["code"]) == (503, "server_overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        server.engine.go.set()
        assert (await waiting).status_code == 200
        assert (await server.predict("intent", "hello")).status_code == 200


async def test_a_tenant_over_its_share_is_told_when_to_come_again(ready: Any) -> None:
    ready.engine.failures[""] = RowFailure("queue_share_exceeded", "more than its share", 2.4)
    refused = await ready.predict("intent", ["hello", "world"])
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_share_exceeded")
    assert refused.headers["Retry-After"] == "3"


async def test_null_answer_is_kept_and_unset_fields_are_not(ready: Any, bundles: Any) -> None:
    decoding = {"no_answer": True, "null_threshold": -100.0}
    await ready.upload(bundles("squad", "question-answering", decoding=decoding))
    output = (await ready.predict("squad", {"question": "a?", "context": "hello"})).json()["outputs"][0]
    assert output["answer"] is None
    assert "windows" not in output
    assert "logits" not in output
