"""Triton's own HTTP clients, synchronous and asyncio, over the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from keyed_server import World

QUESTIONS = ["how much money do i have in my checking account", "play the next song"]
PREMISES = ["A man inspects a uniform.", "Two children are playing outside."]
HYPOTHESES = ["The man is sleeping.", "Children are outdoors."]
QUESTION = "When was the Eiffel Tower opened?"
CONTEXT = "The Eiffel Tower, designed by the company of Gustave Eiffel, was opened in 1889 in Paris."


@pytest.fixture
def client(world: World) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(world.host) as client:
        yield client


def texts(name: str, values: Sequence[str], binary: bool = True) -> Any:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_), binary_data=binary)
    return tensor


def strings(result: Any, name: str) -> list[str]:
    return [value if isinstance(value, str) else value.decode() for value in result.as_numpy(name)]


def test_health_needs_no_key(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_metadata(world: World, client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata(headers=world.headers())
    assert server["name"] == "prefixrack"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("nli", headers=world.headers())
    assert (model["name"], model["versions"], model["platform"]) == ("nli", ["1"], "prefixrack_adapter")
    assert [tensor["name"] for tensor in model["inputs"]] == ["text", "text_pair"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        ("label", "BYTES", [-1]),
        ("score", "FP32", [-1]),
        ("scores", "FP32", [-1, 3]),
        ("logits", "FP32", [-1, 3]),
    ]
    assert client.get_model_metadata("nli", "1", headers=world.headers()) == model


def test_the_repository_s_index(world: World, client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index(headers=world.headers())
    assert {"name": "intent", "version": "1", "state": "READY", "reason": ""} in index
    assert len(index) == 7


def test_ready_models(world: World, client: triton.InferenceServerClient) -> None:
    assert client.is_model_ready("intent", headers=world.headers())
    assert client.is_model_ready("intent", "1", headers=world.headers())
    assert client.is_model_ready("intent@latest", headers=world.headers())
    assert not client.is_model_ready("intent", "7", headers=world.headers())
    assert not client.is_model_ready("nobody", headers=world.headers())


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_classification(world: World, client: triton.InferenceServerClient, binary: bool) -> None:
    """Input and output in either form; the answers are the native route's."""
    names = ("label", "score", "scores", "logits")
    result = client.infer(
        "intent",
        [texts("text", QUESTIONS, binary)],
        request_id="42",
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in names],
        headers=world.headers(),
    )
    expected, labels = world.outputs("intent", QUESTIONS, logits=True), world.labels("intent")
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("42", "intent", "1")
    assert strings(result, "label") == ["balance", "next_song"] == [one.label for one in expected]
    np.testing.assert_allclose(result.as_numpy("score"), [one.score for one in expected], rtol=1e-4)
    np.testing.assert_allclose(result.as_numpy("logits"), [one.logits for one in expected], rtol=1e-3, atol=1e-4)
    assert result.as_numpy("scores").shape == (2, len(labels))
    assert [labels[index] for index in result.as_numpy("scores").argmax(axis=1)] == ["balance", "next_song"]


def test_without_a_list_of_outputs_all_come_in_binary_form(world: World, client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "nli", [texts("text", PREMISES), texts("text_pair", HYPOTHESES)], model_version="1", headers=world.headers()
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["label", "score", "scores", "logits"]
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])
    assert strings(result, "label") == ["contradiction", "entailment"]


def test_several_labels(world: World, client: triton.InferenceServerClient) -> None:
    result = client.infer("emotions", [texts("text", ["thank you so much!"])], headers=world.headers())
    assert [entry["label"] for entry in json.loads(strings(result, "labels")[0])] == ["gratitude"]
    none = client.infer(
        "emotions", [texts("text", ["thank you so much!"])], headers=world.headers(), parameters={"threshold": 1.0}
    )
    assert json.loads(strings(none, "labels")[0]) == []


def test_entities(world: World, client: triton.InferenceServerClient) -> None:
    text = "He played for Manchester United at Wembley Stadium in London."
    result = client.infer("ner", [texts("text", [text])], headers=world.headers())
    entities = json.loads(strings(result, "entities")[0])
    assert {text[entity["start"] : entity["end"]] for entity in entities} == {
        "Manchester United",
        "Wembley Stadium",
        "London",
    }


def test_an_answer(world: World, client: triton.InferenceServerClient) -> None:
    result = client.infer("qa", [texts("question", [QUESTION]), texts("context", [CONTEXT])], headers=world.headers())
    assert strings(result, "answer") == ["1889"]
    start, end = int(result.as_numpy("start")[0]), int(result.as_numpy("end")[0])
    assert CONTEXT[start:end] == "1889"
    assert 0 < result.as_numpy("score")[0] <= 1


def test_an_embedding(world: World, client: triton.InferenceServerClient) -> None:
    result = client.infer("sentences", [texts("text", ["hello", "world"])], headers=world.headers())
    vectors = result.as_numpy("embedding")
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_task_without_tensors_of_its_own_takes_json(world: World, client: triton.InferenceServerClient) -> None:
    question = {"text": "The man broke his toe. What was the cause?", "choices": ["It rained.", "He hit a stone."]}
    result = client.infer("cause", [texts("input", [json.dumps(question)])], headers=world.headers())
    assert set(json.loads(strings(result, "output")[0])) >= {"choice", "scores"}


def test_unicode_survives_both_forms(world: World, client: triton.InferenceServerClient) -> None:
    text = "👩‍💻 流れ Zoë lives in London"
    for binary in (True, False):
        result = client.infer("ner", [texts("text", [text], binary)], headers=world.headers())
        for entity in json.loads(strings(result, "entities")[0]):
            assert text[entity["start"] : entity["end"]] == entity["text"]


@pytest.mark.parametrize(
    ("model", "version", "status", "code"),
    [("nobody", "", "404", "adapter_not_found"), ("intent", "7", "404", "version_not_found")],
)
def test_models_that_are_not_there(
    world: World, client: triton.InferenceServerClient, model: str, version: str, status: str, code: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [texts("text", ["hello"])], model_version=version, headers=world.headers())
    assert caught.value.status() == status
    assert caught.value.message().startswith(f"{code}: ")


@pytest.mark.parametrize(
    ("tensors", "outputs", "said"),
    [
        ([("context", ["hello"])], None, "no input tensor 'text'"),
        ([("text", ["hello"]), ("title", ["hello"])], None, "unknown input tensor 'title'"),
        ([("text", ["hello"]), ("text_pair", ["hello", "world"])], None, "differ in length"),
        ([("text", ["hello", ""])], None, "empty_input: input 1"),
        ([("text", ["hello"])], ["entities"], "no output tensor 'entities'"),
    ],
)
def test_what_is_refused(
    world: World, client: triton.InferenceServerClient, tensors: Any, outputs: Any, said: str
) -> None:
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException, match=said) as caught:
        client.infer("intent", [texts(*tensor) for tensor in tensors], outputs=wanted, headers=world.headers())
    assert caught.value.status() == "422"


def test_options_of_triton_that_are_not_here_are_refused(world: World, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="priority"):
        client.infer("intent", [texts("text", ["hello"])], priority=3, headers=world.headers())
    wanted = [triton.InferRequestedOutput("scores", class_count=3)]
    with pytest.raises(InferenceServerException, match="classification"):
        client.infer("intent", [texts("text", ["hello"])], outputs=wanted, headers=world.headers())
    with pytest.raises(InferenceServerException, match="unsupported_media_type"):
        client.infer(
            "intent", [texts("text", ["hello"])], request_compression_algorithm="gzip", headers=world.headers()
        )
    with pytest.raises(InferenceServerException, match="route_not_found"):
        client.get_model_config("intent", headers=world.headers())


def test_a_timeout_is_the_request_s_deadline(world: World, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("intent", [texts("text", ["hello"] * 200)], timeout=1, headers=world.headers())
    assert (caught.value.status(), caught.value.message().partition(":")[0]) == ("504", "deadline_exceeded")
    assert client.infer(
        "intent", [texts("text", ["hello"])], timeout=20_000_000, headers=world.headers()
    ).get_response()


def test_keys(world: World, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="missing_key") as refused:
        client.get_model_metadata("intent")
    assert refused.value.status() == "401"
    with pytest.raises(InferenceServerException, match="forbidden") as forbidden:
        client.infer("intent", [texts("text", ["hello"])], headers=world.headers(world.reader_key))
    assert forbidden.value.status() == "403"


async def test_the_asyncio_client(world: World) -> None:
    async with triton_aio.InferenceServerClient(world.host) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("intent", headers=world.headers())
        assert (await client.get_model_metadata("qa", headers=world.headers()))["name"] == "qa"
        result = await client.infer("intent", [texts("text", QUESTIONS)], headers=world.headers())
        assert strings(result, "label") == ["balance", "next_song"]
        with pytest.raises(InferenceServerException, match="adapter_not_found"):
            await client.infer("nobody", [texts("text", QUESTIONS)], headers=world.headers())
