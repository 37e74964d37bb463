"""Measured numbers in a bundle's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefixrack.errors import InvalidRequest, MalformedBundle
from prefixrack_adapters import claims
from prefixrack_adapters.bundle import bundle_digest, read_card
from prefixrack_adapters.claims import merged, write_claims
from prefixrack_adapters.manifest import Manifest, Metric, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from tiny import write_random_bundle


def metric(name: str, value: float, dataset: str = "snli", split: str = "dev") -> Metric:
    return Metric(name=name, value=value, dataset=dataset, split=split, num_examples=7)


def manifest_of(bundle: Path) -> Manifest:
    return parse_manifest((bundle / "adapter.json").read_bytes())


@pytest.fixture
def bundle(tmp_path: Path, spec: BackboneSpec) -> Path:
    return write_random_bundle(tmp_path / "bundle", spec)


def test_a_new_number_takes_the_place_of_the_old_one() -> None:
    old = [metric("f1", 0.1), metric("f1", 0.2, split="test"), metric("accuracy", 0.3)]
    new = [metric("accuracy", 0.5), metric("f1", 0.4), metric("f1", 0.6, dataset="rte")]
    assert merged(old, new) == [new[1], old[1], new[0], new[2]]


def test_written_numbers_are_in_the_manifest_and_change_the_digest(bundle: Path) -> None:
    before, manifest = bundle_digest(bundle), manifest_of(bundle)
    digest = write_claims(bundle, [metric("f1", 0.5)])
    assert digest == bundle_digest(bundle) != before
    assert manifest_of(bundle) == manifest.model_copy(update={"metrics": [metric("f1", 0.5)]})
    assert write_claims(bundle, [metric("f1", 0.5)]) == digest
    assert len(manifest_of(bundle).metrics) == 1
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "adapter.json", "adapter.safetensors"]


def test_a_write_that_fails_changes_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_disk(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    before, card = bundle_digest(bundle), read_card(bundle)
    monkeypatch.setattr(claims, "_write_through", fill_disk)
    with pytest.raises(InvalidRequest, match="No space left on device"):
        write_claims(bundle, [metric("f1", 0.5)])
    assert bundle_digest(bundle) == before
    assert read_card(bundle) == card
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "adapter.json", "adapter.safetensors"]


CARD = """---
license: "mit"
metrics: ["f1"]
model-index: []
---

# tiny

metrics: as they were

<!-- claims -->
<!-- /claims -->

The end.
"""


def test_the_card_shows_what_the_manifest_claims(bundle: Path) -> None:
    (bundle / "README.md").write_text(CARD)
    write_claims(bundle, [metric("f1", 0.5), metric("accuracy", 0.25)])
    write_claims(bundle, [metric("f1", 0.75, split="test")])
    card = read_card(bundle) or ""
    fields = dict(line.split(": ", 1) for line in card.splitlines()[1:4])
    assert fields["license"] == '"mit"'
    assert json.loads(fields["metrics"]) == ["f1", "accuracy"]
    (index,) = json.loads(fields["model-index"])
    assert index["name"] == "tiny"
    assert [(one["dataset"]["split"], one["metrics"]) for one in index["results"]] == [
        ("dev", [{"type": "f1", "value": 0.5}, {"type": "accuracy", "value": 0.25}]),
        ("test", [{"type": "f1", "value": 0.75}]),
    ]
    assert card.count("| f1 | 0.7500 | snli | test | 7 |") == 1
    assert card.count("<!-- claims -->") == 1
    assert "\nmetrics: as they were\n" in card
    assert card.endswith("<!-- /claims -->\n\nThe end.\n")


@pytest.mark.parametrize("card", ["# mine\n\nmetrics: none\n", "---\nnever: closed\n", ""])
def test_a_card_of_another_form_stays_as_it_is(bundle: Path, card: str) -> None:
    (bundle / "README.md").write_text(card)
    write_claims(bundle, [metric("f1", 0.5)])
    assert read_card(bundle) == card


def test_a_bundle_may_have_no_card(bundle: Path) -> None:
    (bundle / "README.md").unlink()
    write_claims(bundle, [metric("f1", 0.5)])
    assert read_card(bundle) is None


def test_a_card_that_is_no_text_is_refused_and_nothing_written(bundle: Path) -> None:
    (bundle / "README.md").write_bytes(b"caf\xe9")
    before = bundle_digest(bundle)
    with pytest.raises(MalformedBundle, match=r"README\.md is not UTF-8 text \(byte 3\)"):
        write_claims(bundle, [metric("f1", 0.5)])
    assert bundle_digest(bundle) == before
