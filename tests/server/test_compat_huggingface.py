"""Hugging Face's API: lists, null options, adapters of other problems, and what its plans say of them."""

from __future__ import annotations

import json
from typing import Any

import pytest


async def ask(server: Any, adapter: str, inputs: Any, **parameters: Any) -> Any:
    body = {"inputs": inputs, "parameters": parameters}
    return (await server.client.post(f"/hf/{adapter}", json=body)).json()


async def test_a_list_is_answered_by_a_list(server: Any, bundles: Any) -> None:
    for name, task in (
        ("intent", "text-classification"),
        ("ner", "token-classification"),
        ("qa", "question-answering"),
    ):
        await server.upload(bundles(name, task))
    question = {"question": "hello", "context": "good world"}
    for name, value in (("intent", "hello"), ("ner", "hello world"), ("qa", question)):
        one, several = await ask(server, name, value), await ask(server, name, [value, value])
        assert several == ([*one, *one] if name == "intent" else [one, one])


async def test_null_is_an_option_left_out(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    plain = await ask(server, "intent", "hello")
    assert await ask(server, "intent", "hello", top_k=None, function_to_apply=None) == plain
    empty: tuple[Any, ...] = ({}, None)
    for parameters in empty:
        answer = await server.client.post("/hf/intent", json={"inputs": "hello", "parameters": parameters})
        assert answer.json() == plain
    assert (await server.client.post("/hf/intent", json={"inputs": "hello"})).json() == plain


async def test_a_pair_of_texts(server: Any, bundles: Any) -> None:
    await server.upload(bundles("nli"))
    pair = {"text": "hello", "text_pair": "world"}
    native = (await server.predict("nli", pair)).json()["outputs"][0]
    assert await ask(server, "nli", pair) == [native["scores"]]


async def test_a_number(server: Any, bundles: Any) -> None:
    head = {"gather": "first_token", "layers": [{"num_outputs": 1}]}
    await server.upload(bundles("likeness", labels=[], head=head, decoding={"problem": "regression"}))
    value = (await server.predict("likeness", "hello")).json()["outputs"][0]["value"]
    assert await ask(server, "likeness", "hello") == [[{"label": "LABEL_0", "score": value}]]
    assert await ask(server, "likeness", "hello", function_to_apply="none") == [[{"label": "LABEL_0", "score": value}]]


@pytest.mark.parametrize("labels", [["not_entailment", "entailment"], ["Entailed", "neutral", "Contradicted"]])
async def test_zero_shot_finds_its_labels(server: Any, bundles: Any, labels: list[str]) -> None:
    await server.upload(bundles("rte", labels=labels))
    found = await ask(server, "rte", "hello", candidate_labels=["good", "bad", "world"])
    assert {entry["label"] for entry in found} == {"good", "bad", "world"}
    assert sum(entry["score"] for entry in found) == pytest.approx(1)
    several = await ask(server, "rte", "hello", candidate_labels=["good"], multi_label=True)
    if len(labels) == 2:  # then one softmax over both is the adapter's own
        pair = {"text": "hello", "text_pair": "This example is good."}
        native = (await server.predict("rte", pair)).json()["outputs"][0]["scores"]
        expected = next(entry["score"] for entry in native if entry["label"] == "entailment")
        assert several[0]["score"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("adapter", "body", "code", "said"),
    [
        ("intent", {"parameters": {}}, "invalid_request", "no `inputs`"),
        ("intent", {"inputs": []}, "invalid_request", "empty list"),
        ("intent", {"inputs": "hello", "options": {}}, "invalid_request", "options"),
        ("intent", {"inputs": "hello", "parameters": []}, "invalid_request", "parameters"),
        ("intent", {"inputs": "hello", "parameters": {"top_k": 0}}, "invalid_request", "top_k"),
        ("intent", {"inputs": ["hello", 7]}, "invalid_input", "input 1"),
        ("intent", {"inputs": "\ud800"}, "invalid_unicode", ""),
        ("rte", {"inputs": ["hello"], "parameters": {"candidate_labels": ["a"]}}, "invalid_request", "one string"),
        ("rte", {"inputs": "hello", "parameters": {"candidate_labels": []}}, "invalid_request", "candidate_labels"),
        ("rte", {"inputs": "hello", "parameters": {"candidate_labels": "a"}}, "invalid_request", "candidate_labels"),
        ("vectors", [], "invalid_request", "JSON object"),
        ("vectors", {}, "invalid_request", "no `inputs`"),
        ("vectors", {"inputs": "hello", "dimensions": 4}, "invalid_request", "have 8"),
        ("vectors", {"inputs": "hello", "truncation_direction": "left"}, "invalid_request", "truncation_direction"),
        ("vectors", {"inputs": "hello", "parameters": {"normalize": True}}, "invalid_request", "parameters"),
        ("vectors", {"inputs": {"source_sentence": "a", "sentences": []}}, "invalid_request", "sentences"),
        ("vectors", {"inputs": {"source_sentence": "a", "sentences": [7]}}, "invalid_request", "sentences"),
    ],
)
async def test_what_is_refused(server: Any, bundles: Any, adapter: str, body: Any, code: str, said: str) -> None:
    await server.upload(bundles("intent"))
    await server.upload(bundles("rte", labels=["not_entailment", "entailment"]))
    await server.upload(bundles("vectors", "text-embedding"))
    content = json.dumps(body)  # a lone surrogate too, escaped
    answer = await server.client.post(f"/hf/{adapter}", content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert said in problem["error"]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_name_with_a_slash_is_refused_as_a_name(server: Any) -> None:
    answer = await server.client.post("/hf/org/model", json={"inputs": "hello"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_name")


async def test_the_most_labels_of_a_request(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_inputs": 2}) as server:
        await server.upload(bundles("rte", labels=["not_entailment", "entailment"]))
        refused = await ask(server, "rte", "hello", candidate_labels=["a", "b", "c"])
    assert refused["code"] == "too_many_inputs"


async def test_a_text_for_many_labels_counts_as_often(serving: Any, bundles: Any) -> None:
    """Or a small body would have the server tokenise a long text a thousand times."""
    async with serving(limits={"max_body_bytes": 2000}) as server:
        await server.upload(bundles("rte", labels=["not_entailment", "entailment"]))
        labels, text = [f"label {number}" for number in range(20)], "hello " * 20
        refused = await ask(server, "rte", text, candidate_labels=labels)
        answered = await ask(server, "rte", text, candidate_labels=labels[:5])
    assert (refused["status"], refused["code"]) == (413, "payload_too_large")
    assert len(answered) == 5
