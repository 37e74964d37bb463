"""Hugging Face's own clients: `InferenceClient` and its asyncio twin with an adapter's URL as their model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from keyed_server import World

TEXT = "how much money do i have in my checking account"
SENTENCE = "He played for Manchester United at Wembley Stadium in London."
QUESTION = "When was the Eiffel Tower opened?"
CONTEXT = "The Eiffel Tower, designed by the company of Gustave Eiffel, was opened in 1889 in Paris."
TEXTS = ["A man eats pasta.", "Somebody is having spaghetti.", "The satellite left its orbit."]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, the client refuses this machine's own addresses too."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def client(world: World, adapter: str, key: str | None = None) -> InferenceClient:
    return InferenceClient(model=f"{world.base_url}/hf/{adapter}", token=key or world.key)


def softmax(logits: Any) -> Any:
    exponents = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    return exponents / exponents.sum()


def test_text_classification(world: World) -> None:
    found = client(world, "intent").text_classification(TEXT)
    expected = world.outputs("intent", [TEXT])[0].scores
    assert [entry.label for entry in found[:3]] == [entry.label for entry in expected[:3]]
    assert len(found) == len(expected) > 100
    np.testing.assert_allclose([entry.score for entry in found], [entry.score for entry in expected], atol=1e-6)
    assert [entry.label for entry in client(world, "intent@1").text_classification(TEXT, top_k=1)] == ["balance"]


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_functions_over_the_logits(world: World, function: Any) -> None:
    found = client(world, "emotions").text_classification("thank you so much!", function_to_apply=function)
    labels = world.labels("emotions")
    logits = np.array(world.outputs("emotions", ["thank you so much!"], logits=True)[0].logits)
    applied = {"softmax": softmax(logits), "sigmoid": 1 / (1 + np.exp(-logits)), "none": logits}[function]
    expected = dict(zip(labels, applied.tolist(), strict=True))
    assert found[0].label == "gratitude"
    assert {entry.label for entry in found} == set(labels)
    np.testing.assert_allclose([entry.score for entry in found], [expected[entry.label] for entry in found], atol=1e-5)


def test_several_labels_have_a_score_each(world: World) -> None:
    scores = [entry.score for entry in client(world, "emotions").text_classification("thank you so much!")]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) != pytest.approx(1)


def test_token_classification(world: World) -> None:
    found = client(world, "ner").token_classification(SENTENCE)
    assert [entry.word for entry in found] == ["Manchester United", "Wembley Stadium", "London"]
    assert all(SENTENCE[entry.start : entry.end] == entry.word for entry in found)
    assert all(entry.entity_group and entry.entity is None and 0 < entry.score <= 1 for entry in found)
    ignored = [found[0].entity_group or ""]
    fewer = client(world, "ner").token_classification(SENTENCE, aggregation_strategy="first", ignore_labels=ignored)
    assert [entry.word for entry in fewer] == [entry.word for entry in found if entry.entity_group not in ignored]


def test_words_with_their_tags(world: World) -> None:
    found = client(world, "ner").token_classification(SENTENCE, aggregation_strategy="none")
    assert [entry.word for entry in found] == ["Manchester", "United", "Wembley", "Stadium", "London"]
    assert [str(entry.entity)[:2] for entry in found] == ["B-", "I-", "B-", "I-", "B-"]
    assert [entry["index"] for entry in found] == [4, 5, 7, 8, 10]
    everything = client(world, "ner").token_classification(SENTENCE, aggregation_strategy="none", ignore_labels=[])
    assert [entry.word for entry in everything] == [*SENTENCE.removesuffix(".").split(), "."]


def test_question_answering(world: World) -> None:
    found: Any = client(world, "qa").question_answering(QUESTION, CONTEXT)
    assert (found.answer, CONTEXT[found.start : found.end]) == ("1889", "1889")
    assert 0 < found.score <= 1
    several: Any = client(world, "qa").question_answering(QUESTION, CONTEXT, top_k=3)
    assert len(several) == 3
    assert several[0].answer == "1889"
    assert [entry.score for entry in several] == sorted((entry.score for entry in several), reverse=True)
    short: Any = client(world, "qa").question_answering(QUESTION, CONTEXT, top_k=30, max_answer_len=1)
    assert all(len(entry.answer.split()) <= 1 for entry in short)


def test_a_question_without_an_answer(world: World) -> None:
    question = "Who painted the ceiling of the chapel?"
    none: Any = client(world, "qa").question_answering(question, CONTEXT)
    assert (none.answer, none.start, none.end) == ("", 0, 0)
    forced: Any = client(world, "qa").question_answering(question, CONTEXT, handle_impossible_answer=False)
    assert forced.answer
    assert CONTEXT[forced.start : forced.end] == forced.answer


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(world: World, multi_label: bool) -> None:
    text, labels = "The team won the cup after extra time.", ["sports", "cooking", "astronomy"]
    template = "This text is about {}."
    found = client(world, "nli").zero_shot_classification(
        text, labels, multi_label=multi_label, hypothesis_template=template
    )
    pairs = [{"text": text, "text_pair": template.format(label)} for label in labels]
    logits = np.array([output.logits for output in world.outputs("nli", pairs, logits=True)])
    names = world.labels("nli")
    no, yes = logits[:, names.index("contradiction")], logits[:, names.index("entailment")]
    expected = softmax(yes) if not multi_label else [softmax(pair)[1] for pair in zip(no, yes, strict=True)]
    assert found[0].label == "sports"
    assert [entry.score for entry in found] == sorted((entry.score for entry in found), reverse=True)
    by_label = {entry.label: entry.score for entry in found}
    np.testing.assert_allclose([by_label[label] for label in labels], expected, atol=1e-5)


def test_feature_extraction(world: World) -> None:
    one, several = (client(world, "sentences").feature_extraction(texts) for texts in (TEXTS[0], TEXTS))
    assert one.shape == (1, 384)
    assert several.shape == (3, 384)
    np.testing.assert_allclose(one[0], several[0], atol=1e-6)
    np.testing.assert_allclose(one[0], world.outputs("sentences", TEXTS[:1])[0].embedding, atol=1e-6)
    raw, unit = (client(world, "sentences").feature_extraction(TEXTS[0], normalize=flag)[0] for flag in (False, True))
    np.testing.assert_allclose(unit, one[0], atol=1e-6)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-5)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=0.1)


def test_a_long_text_is_cut_where_that_is_wanted(world: World) -> None:
    cut = client(world, "sentences").feature_extraction("word " * 300, truncate=True)
    assert cut.shape == (1, 384)
    with pytest.raises(HfHubHTTPError, match="256"):
        client(world, "sentences").feature_extraction("word " * 300)


def test_sentence_similarity(world: World) -> None:
    found = client(world, "sentences").sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    vectors = client(world, "sentences").feature_extraction(TEXTS)
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-5)
    assert found[0] > found[1]


@pytest.mark.parametrize(
    ("adapter", "call", "status", "said"),
    [
        ("nobody", lambda c: c.text_classification("hello"), 404, "nobody"),
        ("intent@7", lambda c: c.text_classification("hello"), 404, "7"),
        ("intent", lambda c: c.text_classification(" "), 422, "empty"),
        ("intent", lambda c: c.zero_shot_classification("hello", ["a", "b"]), 422, "natural language inference"),
        ("nli", lambda c: c.zero_shot_classification("hello", ["a"], hypothesis_template="It is."), 422, "{}"),
        ("ner", lambda c: c.token_classification("hello", aggregation_strategy="max"), 422, "aggregation_strategy"),
        ("ner", lambda c: c.token_classification("hello", stride=3), 422, "stride"),
        ("qa", lambda c: c.question_answering("who?", "me", doc_stride=3), 422, "doc_stride"),
        ("sentences", lambda c: c.feature_extraction("hello", prompt_name="query"), 422, "prompt_name"),
        ("cause", lambda c: c.text_classification("hello"), 422, "/v1/cause/predict"),
    ],
)
def test_what_is_refused(world: World, adapter: str, call: Any, status: int, said: str) -> None:
    """The client shows the body's `error` and the request's id."""
    with pytest.raises(HfHubHTTPError) as caught:
        call(client(world, adapter))
    assert caught.value.response.status_code == status
    assert said in str(caught.value)
    assert caught.value.request_id == caught.value.response.json()["request_id"]


def test_keys(world: World) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        client(world, "intent", "hf_wrong").text_classification(TEXT)
    assert (refused.value.response.status_code, refused.value.response.json()["code"]) == (401, "invalid_key")
    with pytest.raises(HfHubHTTPError) as forbidden:
        client(world, "intent", world.reader_key).text_classification(TEXT)
    assert (forbidden.value.response.status_code, forbidden.value.response.json()["code"]) == (403, "forbidden")


async def test_the_asynchronous_client(world: World) -> None:
    async with AsyncInferenceClient(model=f"{world.base_url}/hf/intent", token=world.key) as client:
        assert (await client.text_classification(TEXT, top_k=1))[0].label == "balance"
