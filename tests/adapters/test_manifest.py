from __future__ import annotations

import json
from typing import Any

import pytest

from prefixrack.errors import InvalidManifest, LabelMismatch
from prefixrack_adapters.manifest import Manifest, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from tiny import make_manifest


@pytest.fixture
def document(spec: BackboneSpec) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(make_manifest(spec).to_bytes())
    return content


def refused(document: Any) -> str:
    with pytest.raises(InvalidManifest) as caught:
        parse_manifest(json.dumps(document).encode())
    return caught.value.detail


def test_bytes_and_back(spec: BackboneSpec) -> None:
    manifest = make_manifest(spec, labels=("é", "東京", "O"))
    content = manifest.to_bytes()
    assert parse_manifest(content) == manifest
    assert parse_manifest(content).to_bytes() == content
    assert "東京".encode() in content


def test_bytes_do_not_depend_on_the_order_of_fields(document: dict[str, Any]) -> None:
    turned = dict(reversed(document.items()))
    assert Manifest.model_validate(turned).to_bytes() == Manifest.model_validate(document).to_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'name': 1}",
        b"\xff\xfe",
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b'{"seed": ' + b"9" * 5000 + b"}",
    ],
)
def test_broken_json_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifest, match="not JSON in UTF-8"):
        parse_manifest(content)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_refused_wherever_they_stand(document: dict[str, Any], number: str) -> None:
    document["metrics"] = [{"name": "f1", "value": "HERE", "dataset": "x"}]
    in_metrics = json.dumps(document).replace('"HERE"', number)
    document["metrics"], document["provenance"]["settings"] = [], {"learning_rate": "HERE"}
    in_settings = json.dumps(document).replace('"HERE"', number)
    for content in (in_metrics, in_settings):
        with pytest.raises(InvalidManifest, match="not JSON compliant"):
            parse_manifest(content.encode())


def test_a_lone_surrogate_is_refused_wherever_it_stands(document: dict[str, Any]) -> None:
    document["example"] = "\ud800"
    assert "surrogates not allowed" in refused(document)


@pytest.mark.parametrize("content", [[], "text", 3, None, True])
def test_anything_but_an_object_is_refused(content: Any) -> None:
    assert "an object is needed" in refused(content)


def test_unknown_field_is_named(document: dict[str, Any]) -> None:
    document["prefix"]["prefix_projection"] = True
    assert "prefix.prefix_projection" in refused(document)


def test_missing_field_is_named(document: dict[str, Any]) -> None:
    del document["backbone"]
    assert "`backbone`: Field required" in refused(document)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (None, "schema_version", 2),
        (None, "name", "Upper"),
        (None, "name", ""),
        (None, "name", "a" * 64),
        (None, "name", "a/b"),
        (None, "task", "translation"),
        (None, "labels", "no"),
        ("backbone", "fingerprint", "A" * 64),
        ("backbone", "fingerprint", "a" * 63),
        ("prefix", "prefix_len", -1),
        ("prefix", "prefix_len", 4097),
        ("prefix", "kind", "shallow"),
        ("prefix", "dtype", "int8"),
        ("prefix", "positions", "before"),
        ("prefix", "num_layers", 0),
        ("head", "layers", []),
        ("head", "gather", "every_position"),
        ("tokenization", "max_len", 3),
        ("tokenization", "stride", -1),
        ("tokenization", "overlong", "ignore"),
        ("decoding", "threshold", 1.5),
        ("decoding", "n_best", 0),
        ("decoding", "n_best", 101),
        ("decoding", "max_answer_len", 0),
        ("decoding", "tagging", "iob1"),
        ("decoding", "problem", "ranking"),
    ],
)
def test_a_value_out_of_bounds_is_named_and_shown(
    document: dict[str, Any], part: str | None, field: str, value: Any
) -> None:
    (document if part is None else document[part])[field] = value
    message = refused(document)
    assert (field if part is None else f"{part}.{field}") in message
    assert repr(value)[:40] in message


def test_a_long_value_is_shown_shortened(document: dict[str, Any]) -> None:
    document["name"] = "x" * 5000
    assert len(refused(document)) < 250


def test_the_number_of_further_problems_is_told(document: dict[str, Any]) -> None:
    document["name"], document["task"] = 1, 2
    assert "and 1 more" in refused(document)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": []}, "2 outputs.*0 labels needs 0"),
        ({"labels": ["no"]}, "2 outputs.*1 labels needs 1"),
        ({"labels": ["no", "no"]}, "the same label stands twice"),
        ({"decoding": {"problem": "regression"}}, "needs 1"),
        ({"task": "multiple-choice", "labels": []}, "needs 1"),
    ],
)
def test_labels_and_head_must_agree(document: dict[str, Any], change: dict[str, Any], match: str) -> None:
    with pytest.raises(LabelMismatch, match=match):
        parse_manifest(json.dumps(document | change).encode())


def test_the_gathered_states_must_suit_the_task(document: dict[str, Any]) -> None:
    document["task"] = "token-classification"
    assert "needs 'every_token'" in refused(document)
    document["task"], document["head"]["gather"] = "text-classification", "every_token"
    assert "needs 'first_token'" in refused(document)


@pytest.mark.parametrize("task", ["multiple-choice", "question-answering", "token-classification"])
@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_only_text_classification_has_other_problems(document: dict[str, Any], task: str, problem: str) -> None:
    document["task"], document["decoding"] = task, {"problem": problem}
    assert f"decoding.problem is {problem!r}, but task {task!r} has 'single_label' only" in refused(document)


@pytest.mark.parametrize(
    ("tagging", "label"),
    [
        *[("bio", label) for label in ("person", "E-per", "S-per", "B-", "-per", "")],
        *[("bioes", label) for label in ("L-per", "IE-per", "O-per", "b-per", "B_per")],
    ],
)
def test_a_label_that_is_no_tag_is_named(spec: BackboneSpec, tagging: str, label: str) -> None:
    decoding = {"tagging": tagging}
    with pytest.raises(LabelMismatch, match=rf"label '{label}' is no tag of the scheme '{tagging}'.*B-x"):
        make_manifest(spec, task="token-classification", labels=("O", "B-per", label), decoding=decoding)


def test_tags_of_both_schemes(spec: BackboneSpec) -> None:
    make_manifest(spec, task="token-classification", labels=("B-per", "I-per", "B-a-b"))
    labels = ("O", "B-per", "I-per", "E-per", "S-per")
    make_manifest(spec, task="token-classification", labels=labels, decoding={"tagging": "bioes"})


def test_tensor_shapes(spec: BackboneSpec) -> None:
    assert make_manifest(spec, has_pooler=True, labels=("a", "b", "c")).tensor_shapes(32) == {
        "prefix": (2, 2, 4, 4, 8),
        "head.0.weight": (32, 32),
        "head.0.bias": (32,),
        "head.1.weight": (3, 32),
        "head.1.bias": (3,),
    }


def test_a_layer_without_bias_has_no_bias_tensor(document: dict[str, Any]) -> None:
    document["prefix"]["prefix_len"] = 0
    document["head"]["layers"] = [{"num_outputs": 5, "activation": "relu", "bias": False}, {"num_outputs": 2}]
    shapes = parse_manifest(json.dumps(document).encode()).tensor_shapes(32)
    assert shapes == {"head.0.weight": (5, 32), "head.1.weight": (2, 5), "head.1.bias": (2,)}
