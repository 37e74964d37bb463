"""Text embedding: rows of texts and titles, room under both prompt kinds, and vectors equal to the states they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from prefixrack.errors import EmptyInput, InputTooLong, InvalidInput, InvalidRequest, LabelMismatch
from prefixrack.types import EmbeddingOutput, Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow, soft_prompt
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, build_task
from tiny import MAX_POSITIONS, MakeTask, make_manifest, prepare_one, random_arrays, vocabulary

CLS, SEP, CAT, DOG = (vocabulary()[piece] for piece in ("[CLS]", "[SEP]", "cat", "dog"))


@pytest.fixture(scope="module")
def task(make_task: MakeTask) -> AnyTask:
    return make_task(task="text-embedding", max_len=12)


@pytest.mark.parametrize(
    ("value", "fault", "mentions"),
    [
        (None, InvalidInput, "null; a string or an object with text, title"),
        ({"title": "cat"}, InvalidInput, r"lacks \['text'\]"),
        ({"text": "cat", "text_pair": "dog"}, InvalidInput, r"unknown fields \['text_pair'\]"),
        ({"text": "cat", "title": ""}, EmptyInput, "title is empty"),
        (" ", EmptyInput, "the text is empty"),
    ],
)
def test_faulty_inputs(task: AnyTask, value: object, fault: type[Exception], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        prepare_one(task, value)


def test_a_title_stands_before_its_text(task: AnyTask) -> None:
    row = prepare_one(task, {"title": "cat", "text": "dog"}).rows[0]
    assert row.token_ids == (CLS, CAT, SEP, DOG, SEP)
    assert row.segment_ids == (0, 0, 0, 1, 1)
    assert prepare_one(task, {"text": "dog"}).rows == prepare_one(task, "dog").rows


def test_adapters_trained_without_segments_get_none(make_task: MakeTask) -> None:
    task = make_task(task="text-embedding", segments=False)
    assert prepare_one(task, {"title": "cat", "text": "dog"}).rows[0].segment_ids == (0,) * 5


def test_only_the_text_is_cut(task: AnyTask) -> None:
    value = {"title": "cat " * 6, "text": "dog " * 9}
    with pytest.raises(InputTooLong, match=r'has 18 tokens.*takes 12.*"overlong": "truncate"$'):
        prepare_one(task, value)
    one = prepare_one(task, value, overlong="truncate")
    assert one.truncated
    assert one.rows[0].token_ids == (CLS, *[CAT] * 6, SEP, *[DOG] * 3, SEP)
    single = prepare_one(task, "dog " * 11, overlong="truncate")
    assert single.rows[0].token_ids == (CLS, *[DOG] * 10, SEP)


def test_a_title_that_leaves_no_room_is_refused(task: AnyTask) -> None:
    with pytest.raises(InputTooLong, match="the title has 9 tokens and leaves none of 12"):
        prepare_one(task, {"title": "cat " * 9, "text": "dog"}, overlong="truncate")


def test_windows_are_not_possible(task: AnyTask) -> None:
    with pytest.raises(InvalidRequest, match=r"'window' is not possible.*allowed: error, truncate"):
        task.prepare_many([], Parameters(overlong="window"))


@pytest.mark.parametrize(
    ("options", "first", "room"),
    [
        ({}, 40, MAX_POSITIONS - 40),
        ({"positions": "unmoved"}, 0, MAX_POSITIONS),
        ({"prompt": "once"}, 0, MAX_POSITIONS - 40),
        ({"prompt": "twice"}, 0, MAX_POSITIONS - 40),
    ],
)
def test_room_beside_a_prefix_and_behind_a_prompt(
    backbone: Backbone, make_task: MakeTask, options: dict[str, Any], first: int, room: int
) -> None:
    task = make_task(task="text-embedding", prefix_len=40, max_len=1000, **options)
    assert (task.first_position, task.max_tokens) == (first, room)
    row = prepare_one(task, "cat " * (room - 2)).rows[0]
    adapter = random_adapter(backbone, prefix_len=40, **options)
    (vector,) = backbone.compute([PackRow(row, adapter)])
    assert np.isfinite(vector).all()
    with pytest.raises(InputTooLong):
        prepare_one(task, "cat " * (room - 1))


def random_adapter(backbone: Backbone, **options: Any) -> Adapter:
    manifest = make_manifest(backbone.spec, task="text-embedding", **options)
    arrays = random_arrays(manifest, backbone.spec.hidden_size)
    return Adapter.from_arrays(manifest, arrays, device="cpu", dtype=backbone.dtype)


def vector_of(backbone: Backbone, adapter: Adapter, text: str, parameters: Parameters | None = None) -> EmbeddingOutput:
    (output,) = backbone.predict(adapter, [text], parameters)
    assert isinstance(output, EmbeddingOutput)
    return output


@pytest.mark.parametrize("prompt", [None, "once"])
@pytest.mark.parametrize("gather", ["first_token", "last_token", "mean_tokens"])
def test_the_vector_is_the_state_that_the_head_gathers(backbone: Backbone, gather: str, prompt: str | None) -> None:
    adapter = random_adapter(backbone, gather=gather, prompt=prompt)
    text = "the cat sat on the mat"
    row = prepare_one(build_task(adapter.manifest, backbone.spec, backbone.tokenizer), text).rows[0]
    with torch.inference_mode():
        states = backbone.hidden_states([row], [adapter.layers], [soft_prompt(adapter)])
    tokens = states[-len(row) :].numpy()  # behind the prompt
    assert len(states) == len(row) + (4 if prompt else 0)
    wanted = {"first_token": tokens[0], "last_token": tokens[-1], "mean_tokens": tokens.mean(axis=0)}[gather]
    output = vector_of(backbone, adapter, text)
    assert output.embedding == pytest.approx(wanted.tolist(), abs=1e-5)


def test_normalised_vectors_have_length_one(backbone: Backbone) -> None:
    plain, unit = (random_adapter(backbone, decoding={"normalize": flag}) for flag in (False, True))
    raw = vector_of(backbone, plain, "cat")
    output = vector_of(backbone, unit, "cat", Parameters(logits=True))
    assert np.linalg.norm(output.embedding) == pytest.approx(1)
    assert output.embedding == pytest.approx((np.array(raw.embedding) / np.linalg.norm(raw.embedding)).tolist())
    assert output.logits == pytest.approx(raw.embedding)
    assert raw.logits is None


def test_a_vector_of_zeros_stays_one(make_task: MakeTask) -> None:
    task = make_task(task="text-embedding", decoding={"normalize": True})
    zeros = np.zeros(4, dtype=np.float32)
    output = task.finish(prepare_one(task, "cat"), [zeros], Parameters())
    assert output.model_dump()["embedding"] == [0.0] * 4


def test_what_belongs_to_embeddings_alone(spec: BackboneSpec) -> None:
    embedding = make_manifest(spec, task="text-embedding").model_dump()
    with pytest.raises(LabelMismatch, match="a text-embedding has no labels, seen 1"):
        Manifest.model_validate(embedding | {"labels": ["a"]})
    with pytest.raises(ValueError, match=r"decoding\.normalize is true, but task 'text-classification'"):
        make_manifest(spec, decoding={"normalize": True})
    with pytest.raises(ValueError, match=r"head\.layers is \[\], but task 'text-classification'"):
        Manifest.model_validate(make_manifest(spec).model_dump() | {"head": embedding["head"]})
