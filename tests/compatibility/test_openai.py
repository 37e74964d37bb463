"""OpenAI's own client: models and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from keyed_server import World

TEXTS = ["A man eats pasta.", "Somebody is having spaghetti.", "The satellite left its orbit."]
SIZE = 384


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with client_of(world, world.key) as client:
        yield client


def client_of(world: World, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{world.base_url}/v1", api_key=key, max_retries=0)


def vectors(answer: Any) -> NDArray[Any]:
    return np.array([entry.embedding for entry in answer.data])


def native_vectors(world: World, texts: list[str]) -> NDArray[Any]:
    return np.array([output.embedding for output in world.outputs("sentences", texts)])


def test_models_are_the_adapters(world: World, client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"cause", "emotions", "intent", "ner", "nli", "qa", "sentences"}
    assert {(model.object, model.owned_by) for model in models.values()} == {("model", "default")}
    assert min(model.created for model in models.values()) > 1_700_000_000
    assert client.models.retrieve("intent") == models["intent"]
    assert client.models.retrieve("intent@1").id == "intent@1"
    with client_of(world, world.reader_key) as reader:
        assert len(list(reader.models.list())) == len(models)


def test_a_model_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "adapter_not_found",
        "model",
        "invalid_request_error",
    )
    assert "nobody" in caught.value.message
    assert caught.value.request_id


def test_embeddings_are_those_of_the_native_route(world: World, client: openai.OpenAI) -> None:
    """The client asks for base64 by itself."""
    answer = client.embeddings.create(model="sentences", input=TEXTS)
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert answer.model == "sentences"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)
    found = vectors(answer)
    np.testing.assert_allclose(found, native_vectors(world, TEXTS), atol=1e-6)
    similar = found @ found.T
    assert similar[0, 1] > 0.5 > similar[0, 2]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_encodings(client: openai.OpenAI, encoding_format: Any) -> None:
    raw = client.embeddings.with_raw_response.create(
        model="sentences@1", input=TEXTS[0], encoding_format=encoding_format
    )
    sent = raw.http_response.json()["data"][0]["embedding"]
    assert isinstance(sent, str if encoding_format == "base64" else list)
    plain = vectors(client.embeddings.create(model="sentences", input=TEXTS[0]))
    if encoding_format == "float":
        np.testing.assert_allclose(vectors(raw.parse()), plain, atol=1e-6)


def test_dimensions_are_the_adapter_s_or_refused(client: openai.OpenAI) -> None:
    assert vectors(client.embeddings.create(model="sentences", input="hello", dimensions=SIZE)).shape == (1, SIZE)
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions is 128") as caught:
        client.embeddings.create(model="sentences", input="hello", dimensions=128)
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ({"model": "intent", "input": "hello"}, "invalid_request", "text-classification"),
        ({"model": "sentences", "input": [1, 2, 3]}, "invalid_request", "token ids"),
        ({"model": "sentences", "input": ["hello", " "]}, "empty_input", "input 1"),
        ({"model": "sentences", "input": []}, "invalid_request", "empty list"),
        ({"model": "sentences", "input": "word " * 300}, "input_too_long", "256"),
        ({"model": "sentences", "input": "hello", "extra_body": {"task": "search"}}, "invalid_request", "task"),
    ],
)
def test_what_is_refused(client: openai.OpenAI, arguments: Any, code: str, said: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=said) as caught:
        client.embeddings.create(**arguments)
    assert caught.value.code == code


def test_keys(world: World) -> None:
    with client_of(world, "wrong") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert (refused.value.code, refused.value.type) == ("invalid_key", "authentication_error")
    with client_of(world, world.reader_key) as reader, pytest.raises(openai.PermissionDeniedError) as forbidden:
        reader.embeddings.create(model="sentences", input="hello")
    assert (forbidden.value.code, forbidden.value.type) == ("forbidden", "permission_error")


async def test_the_asynchronous_client(world: World) -> None:
    async with openai.AsyncOpenAI(base_url=f"{world.base_url}/v1", api_key=world.key) as client:
        assert "sentences" in [model.id async for model in client.models.list()]
        answer = await client.embeddings.create(model="sentences", input=TEXTS)
    np.testing.assert_allclose(vectors(answer), native_vectors(world, TEXTS), atol=1e-6)
