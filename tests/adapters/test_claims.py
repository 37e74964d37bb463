"""Measured numbers in a bundle's manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefixrack.errors import InvalidRequest
from prefixrack_adapters import claims
from prefixrack_adapters.bundle import bundle_digest
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

    before = bundle_digest(bundle)
    monkeypatch.setattr(claims, "_write_through", fill_disk)
    with pytest.raises(InvalidRequest, match="No space left on device"):
        write_claims(bundle, [metric("f1", 0.5)])
    assert bundle_digest(bundle) == before
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "adapter.json", "adapter.safetensors"]
