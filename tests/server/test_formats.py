"""Input formats, embeddings, soft prompts and raw logits over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from prefixrack.types import AdapterDetail, PredictResponse

SOFT = {"kind": "soft", "prefix_len": 5, "width": 8}


async def raw(server: Any, name: str, inputs: Any, **parameters: Any) -> tuple[dict[str, Any], list[Any]]:
    """The output to one input with its logits, and what the engine computed for its rows."""
    response = await server.predict(name, inputs, logits=True, **parameters)
    assert response.status_code == 200, response.text
    PredictResponse.model_validate(response.json())
    (output,) = response.json()["outputs"]
    computed = [server.engine._answer(work).logits for work in server.engine.submitted[-1]]
    return output, computed


async def upload(server: Any, bundles: Any, name: str, task: str, **changes: Any) -> None:
    response = await server.upload(bundles(name, task, **changes))
    assert response.status_code == 201, response.text


async def test_logits_of_a_text(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "intent", "text-classification")
    output, (row,) = await raw(server, "intent", "hello")
    assert output["logits"] == row.tolist()


async def test_logits_of_words(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "ner", "token-classification")
    output, (row,) = await raw(server, "ner", "hello é world", offset_unit="byte")
    assert output["logits"][0] == row[1].tolist()
    assert output["logits"][2] == row[3].tolist()
    assert output["logit_offsets"] == [[0, 5], [6, 8], [9, 14]]


async def test_logits_of_windows(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "qa", "question-answering")
    context = "good world " * 60
    output, computed = await raw(server, "qa", {"question": "a?", "context": context})
    assert output["windows"] == len(computed) > 1
    assert output["logits"] == [row.tolist() for row in computed]
    for offsets, of_window in zip(output["logit_offsets"], output["logits"], strict=True):
        assert len(offsets) == len(of_window)
        assert offsets[0] is None
        assert {context[start:end] for start, end in filter(None, offsets)} == {"good", "world"}


async def test_logits_of_choices(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "copa", "multiple-choice", input_format="copa")
    value = {"premise": "hello", "question": "cause", "choices": ["good", "bad", "world"]}
    output, computed = await raw(server, "copa", value)
    assert output["logits"] == [float(row[0]) for row in computed]
    assert len(computed) == 3


@pytest.mark.parametrize("normalize", [False, True])
async def test_logits_of_an_embedding(server: Any, bundles: Any, normalize: bool) -> None:
    await upload(server, bundles, "vectors", "text-embedding", decoding={"normalize": normalize})
    output, (row,) = await raw(server, "vectors", "hello")
    assert output["logits"] == row.tolist()
    length = np.linalg.norm(row.astype(np.float64)) if normalize else 1
    assert output["embedding"] == pytest.approx((row / length).tolist())


async def test_answers_are_judged_one_by_one(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "multi", "text-classification", input_format="multirc", labels=["False", "True"])
    value = {"passage": "hello world", "question": "a?", "answers": ["good", "bad"]}
    output, computed = await raw(server, "multi", value)
    assert [one["text"] for one in output["judged"]] == ["good", "bad"]
    assert output["logits"] == [row.tolist() for row in computed]
    for one, row in zip(output["judged"], computed, strict=True):
        assert one["label"] == ["False", "True"][int(row.argmax())]


async def test_the_entity_is_that_of_the_largest_second_logit(server: Any, bundles: Any) -> None:
    await upload(server, bundles, "cloze", "text-classification", input_format="record", labels=["False", "True"])
    entities = ["good", "bad", "world"]
    value = {"passage": "hello world", "query": "@placeholder", "entities": entities}
    output, computed = await raw(server, "cloze", value)
    assert output["entity"] == entities[int(np.argmax([row[1] for row in computed]))]
    assert output["logits"] == [row.tolist() for row in computed]


@pytest.mark.parametrize(
    ("name", "task", "changes"),
    [
        ("boolq", "text-classification", {"input_format": "boolq"}),
        ("roles", "token-classification", {"input_format": "srl"}),
        ("vectors", "text-embedding", {}),
        ("prompted", "text-classification", {"prefix": SOFT}),
    ],
)
async def test_the_catalogue_shows_how_to_ask(
    server: Any, bundles: Any, name: str, task: str, changes: dict[str, Any]
) -> None:
    await upload(server, bundles, name, task, **changes)
    shown = (await server.client.get(f"/v1/adapters/{name}")).json()
    detail = AdapterDetail.model_validate(shown)
    assert detail.input_format == changes.get("input_format", "plain")
    assert (detail.prefix_kind, detail.prefix_len) == (("soft", 5) if "prefix" in changes else ("deep", 3))
    assert (await server.predict(name, detail.example)).status_code == 200
    assert [one["task"] for one in (await server.client.get("/v1/adapters")).json()["data"]] == [task]


async def test_an_unknown_format_is_refused_at_upload(server: Any, bundles: Any) -> None:
    bundle = bundles("boolq", input_format="boolq")
    wrong = bundle.manifest_bytes.replace(b'"boolq",', b'"bolq",', 1)
    response = await server.client.post("/admin/v1/adapters/boolq/versions", files=bundle.files(manifest=wrong))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_manifest")
    assert "'bolq'" in response.json()["detail"]
    assert "'multirc'" in response.json()["detail"]


async def test_a_soft_prompt_takes_room(server: Any, bundles: Any) -> None:
    tokenization = {"max_len": 1000}
    await upload(server, bundles, "prompted", "text-classification", prefix=SOFT, tokenization=tokenization)
    await upload(server, bundles, "deep", "text-classification", tokenization=tokenization)
    for name, room in (("prompted", 507), ("deep", 509)):
        assert (await server.client.get(f"/v1/adapters/{name}")).json()["max_tokens"] == room
        assert (await server.predict(name, "a " * (room - 2))).status_code == 200
        refused = await server.predict(name, "a " * (room - 1))
        assert refused.json()["errors"][0]["code"] == "input_too_long"


async def test_openapi_knows_every_output(server: Any) -> None:
    schemas = (await server.client.get("/openapi.json")).json()["components"]["schemas"]
    assert {"EmbeddingOutput", "JudgedAnswersOutput", "EntityOutput"} <= set(schemas)
