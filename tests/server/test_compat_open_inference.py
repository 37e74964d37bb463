"""The Open Inference Protocol: bodies that no client would send, and what every status looks like."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixrack.errors import RequestFault
from prefixrack_server.compat.open_inference.inference import parse_infer

TEXT = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}
URL = "/v2/models/intent/infer"


@pytest.fixture
async def ready(server: Any, bundles: Any) -> Any:
    await server.upload(bundles("intent"))
    return server


def binary(document: Any, *parts: bytes, json_len: Any = None) -> dict[str, Any]:
    text = json.dumps(document).encode()
    header = str(len(text) if json_len is None else json_len)
    return {"content": b"".join((text, *parts)), "headers": {"Inference-Header-Content-Length": header}}


def element(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def announced(size: int, num_elements: int = 1) -> dict[str, Any]:
    tensor = {"name": "text", "shape": [num_elements], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    return {"inputs": [tensor]}


async def refusal(server: Any, status: int, **request: Any) -> str:
    answer = await server.client.post(URL, **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    said: str = answer.json()["error"]
    return said


async def test_an_answer_repeats_the_id_and_names_the_version(ready: Any) -> None:
    answer = (await ready.client.post(URL, json={"id": "a", "inputs": [TEXT], "model_name": "intent"})).json()
    native = (await ready.predict("intent", "hello", logits=True)).json()["outputs"][0]
    outputs = {tensor["name"]: tensor for tensor in answer.pop("outputs")}
    assert answer == {"model_name": "intent", "model_version": "1", "id": "a"}
    assert outputs["label"] == {"name": "label", "datatype": "BYTES", "shape": [1], "data": [native["label"]]}
    assert outputs["logits"] == {"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": native["logits"]}
    assert (await ready.client.post(URL, json={"inputs": [TEXT]})).json().keys() == {
        "model_name",
        "model_version",
        "outputs",
    }


@pytest.mark.parametrize(
    ("shape", "data"), [([2], ["hello", "world"]), ([2, 1], ["hello", "world"]), ([2, 1], [["hello"], ["world"]])]
)
async def test_shapes(ready: Any, shape: list[int], data: Any) -> None:
    answer = await ready.client.post(URL, json={"inputs": [TEXT | {"shape": shape, "data": data}]})
    assert answer.json()["outputs"][0]["shape"] == [2]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "JSON object"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [TEXT, TEXT]}, "same name"),
        ({"inputs": [TEXT | {"datatype": "FP32"}]}, "BYTES is needed"),
        ({"inputs": [TEXT | {"shape": [2]}]}, "shape [2] and 1 elements"),
        ({"inputs": [TEXT | {"shape": [1, 2], "data": ["a", "b"]}]}, "[n] or [n, 1]"),
        ({"inputs": [TEXT | {"shape": [-1]}]}, "[n] or [n, 1]"),
        ({"inputs": [TEXT | {"shape": []}]}, "[n] or [n, 1]"),
        ({"inputs": [TEXT | {"shape": [0], "data": []}]}, "empty list"),
        ({"inputs": [TEXT | {"data": "hello"}]}, "list of strings"),
        ({"inputs": [TEXT | {"data": [1]}]}, "list of strings"),
        ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, "either `data` or"),
        ({"inputs": [TEXT | {"parameters": {"shared_memory_region": "r"}}]}, "shared_memory_region"),
        ({"inputs": [TEXT], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "classification"),
        ({"inputs": [TEXT], "outputs": [{"name": "label"}] * 2}, "twice"),
        ({"inputs": [TEXT], "parameters": {"sequence_id": 7}}, "sequence_id"),
        ({"inputs": [TEXT], "parameters": {"timeout": 10**400}}, "timeout"),
        ({"inputs": [TEXT], "parameters": {"timeout": -1}}, "timeout"),
        ({"inputs": [TEXT], "parameters": {"threshold": 0.5}}, "'threshold' means nothing"),
    ],
)
async def test_bodies_of_another_shape(ready: Any, document: Any, said: str) -> None:
    refused = await refusal(ready, 422, json=document)
    assert refused.startswith("invalid_request: ")
    assert said in refused


async def test_malformed_json(ready: Any) -> None:
    assert (await refusal(ready, 400, content=b"{")).startswith("malformed_json: ")


async def test_binary_strings(ready: Any) -> None:
    """No Content-Type, as Triton's client sends it."""
    texts = [b"hello", "👩‍💻".encode(), b"a\0b"]
    parts = [element(text) for text in texts]
    answer = await ready.client.post(URL, **binary(announced(sum(map(len, parts)), 3), *parts))
    native = (await ready.predict("intent", [text.decode() for text in texts])).json()["outputs"]
    assert answer.json()["outputs"][0]["data"] == [output["label"] for output in native]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (binary(announced(9), element(b"hell")), "8 bytes are left"),
        (binary(announced(8), element(b"hello")), "cut off"),
        (binary(announced(3), b"abc"), "cut off"),
        (binary(announced(9), element(b"hello"), b"more"), "4 bytes behind"),
        (binary(announced(9, 2), element(b"hello")), "shape [2] and 1 elements"),
        (binary(announced(5), element(b"\xff")), "not UTF-8"),
        (binary(announced(8), struct.pack("<I", 2**32 - 1), b"good"), "cut off"),
        (binary({"inputs": [TEXT]}, json_len=10_000), "Inference-Header-Content-Length"),
        (binary({"inputs": [TEXT]}, json_len=-1), "Inference-Header-Content-Length"),
        (binary({"inputs": [TEXT | {"parameters": {"binary_data_size": 0}}]}), "either `data` or"),
    ],
)
async def test_binary_data_that_does_not_add_up(ready: Any, request_: Any, said: str) -> None:
    assert said in await refusal(ready, 422, **request_)


async def test_the_json_before_binary_data_is_cut_where_the_header_says(ready: Any) -> None:
    request = binary(announced(9), element(b"hello"), json_len=20)
    assert (await refusal(ready, 400, **request)).startswith("malformed_json: ")


async def test_limits_hold(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_inputs": 2, "max_body_bytes": 400}) as server:
        await server.upload(bundles("intent"))
        many = TEXT | {"shape": [3], "data": ["hello"] * 3}
        assert (await refusal(server, 413, json={"inputs": [many]})).startswith("too_many_inputs: ")
        long = TEXT | {"data": ["hello" * 100]}
        assert (await refusal(server, 413, json={"inputs": [long]})).startswith("payload_too_large: ")


async def test_every_status_has_the_protocol_s_body(ready: Any) -> None:
    for method, path, status in (
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/intent/config", 404),
        ("GET", "/v2/models/In%20tent", 400),
        ("DELETE", "/v2/models/intent", 405),
        ("GET", "/v2/models/intent@1/versions/2", 400),
    ):
        answer = await ready.client.request(method, path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), path
        assert answer.headers["content-type"] == "application/json"
    allowed = await ready.client.get(URL)
    assert allowed.headers["allow"] == "POST"


async def test_an_unexpected_error_has_it_too(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ready.app.state.services.rollouts), "predict", None)
    assert (await refusal(ready, 500, json={"inputs": [TEXT]})).startswith("internal_error: ")


async def test_a_server_that_drains_is_not_ready(ready: Any) -> None:
    ready.app.state.services.phase.drain()
    for path in ("/v2/health/ready", "/v2/models/intent/ready"):
        answer = await ready.client.get(path)
        assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) >= 1
    assert (await ready.client.get("/v2/health/live")).json() == {"live": True}


async def test_versions_oldest_first(ready: Any, bundles: Any) -> None:
    for seed in (1, 2):
        await ready.upload(bundles("intent", seed=seed))
    assert (await ready.client.get("/v2/models/intent")).json()["versions"] == ["1", "2", "3"]
    assert (await ready.client.post("/v2/repository/index")).json() == [
        {"name": "intent", "version": "3", "state": "READY", "reason": ""}
    ]
    answer = await ready.client.post("/v2/models/intent/versions/2/infer", json={"inputs": [TEXT]})
    assert answer.json()["model_version"] == "2"


async def test_a_number_and_several_labels(server: Any, bundles: Any) -> None:
    head = {"gather": "first_token", "layers": [{"num_outputs": 1}]}
    await server.upload(bundles("likeness", labels=[], head=head, decoding={"problem": "regression"}))
    await server.upload(bundles("topics", labels=["a", "b", "c"], decoding={"problem": "multi_label"}))
    for name, outputs in (("likeness", ["value", "logits"]), ("topics", ["labels", "scores", "logits"])):
        metadata = (await server.client.get(f"/v2/models/{name}")).json()["outputs"]
        answer = (await server.client.post(f"/v2/models/{name}/infer", json={"inputs": [TEXT]})).json()["outputs"]
        assert [tensor["name"] for tensor in answer] == [tensor["name"] for tensor in metadata] == outputs
    native = (await server.predict("topics", "hello")).json()["outputs"][0]
    by_label = {entry["label"]: entry["score"] for entry in native["scores"]}
    assert answer[1]["data"] == [by_label[label] for label in ("a", "b", "c")]


async def test_a_task_without_tensors_takes_the_native_json(server: Any, bundles: Any) -> None:
    await server.upload(bundles("copa", "multiple-choice"))
    question = {"text": "hello", "choices": ["good", "bad"]}
    tensor = TEXT | {"name": "input", "data": [json.dumps(question)]}
    answer = (await server.client.post("/v2/models/copa/infer", json={"inputs": [tensor]})).json()
    assert json.loads(answer["outputs"][0]["data"][0]) == (await server.predict("copa", question)).json()["outputs"][0]
    for broken in ("{", "[" * 100_000):
        refused = await server.client.post("/v2/models/copa/infer", json={"inputs": [tensor | {"data": [broken]}]})
        assert (refused.status_code, "element 0" in refused.json()["error"]) == (422, True)


async def test_what_is_predicted_is_counted_under_its_route(ready: Any) -> None:
    await ready.client.post(URL, json={"inputs": [TEXT]})
    lines = (await ready.client.get("/metrics")).text.splitlines()
    assert any('route="/v2/models/{model}/infer",status="200"} 1.0' in line for line in lines)
    assert any(line.startswith("prefixrack_adapter_requests_total") and 'adapter="intent"' in line for line in lines)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Nearly right ones: what is wrong is one field or two."""
    tensor: dict[str, Any] = TEXT | {"parameters": {"binary_data_size": draw(st.integers(-1, 12))}}
    for field in draw(st.sets(st.sampled_from([*tensor]), max_size=2)):
        tensor[field] = draw(JSON | st.just({"binary_data_size": draw(st.integers(0, 12))}))
    if draw(st.booleans()):
        tensor.pop("data", None)
    return tensor


@given(
    st.lists(tensors(), max_size=2), st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), JSON), st.data()
)
def test_any_body_is_read_or_refused(inputs: Any, more: Any, data: st.DataObject) -> None:
    text = json.dumps({"inputs": inputs, **more}).encode()
    rest = data.draw(st.binary(max_size=16) | st.text(max_size=4).map(lambda value: element(value.encode())))
    length = data.draw(st.just(str(len(text))) | st.none() | st.text(max_size=4))
    try:
        request = parse_infer(text + rest, length)
    except RequestFault:
        return
    assert request.columns
    assert all(isinstance(value, str) for column in request.columns.values() for value in column)
