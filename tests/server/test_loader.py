"""The loader: files whose bytes are not the uploaded ones never become an adapter; sizes are known before loading."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefixrack.errors import BackboneMismatch, MalformedBundle, NonfiniteTensor
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, digest_of, file_sha256, write_bundle
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.loader import AdapterLoader
from prefixrack_server.messages import BundleRef

SPEC = BackboneSpec(
    model_id="tiny",
    architecture="bert",
    fingerprint="f" * 64,
    num_layers=2,
    num_kv_heads=2,
    head_dim=4,
    hidden_size=8,
    vocab_size=100,
    num_segments=2,
    max_positions=64,
    base_position=0,
)


@dataclass
class FakeDevice:
    spec: BackboneSpec = SPEC
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16


@dataclass
class FolderSource:
    folder: Path

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        return (self.folder / MANIFEST_FILE).read_bytes(), self.folder / TENSORS_FILE


def manifest() -> Manifest:
    return Manifest(
        name="tiny",
        task="text-classification",
        labels=["no", "yes"],
        backbone=BackboneRef(model_id=SPEC.model_id, architecture=SPEC.architecture, fingerprint=SPEC.fingerprint),
        prefix=PrefixSpec(prefix_len=3, num_layers=2, num_kv_heads=2, head_dim=4),
        head=HeadSpec(gather="first_token", layers=[DenseLayer(num_outputs=2)]),
        tokenization=TokenizationSpec(max_len=32),
        provenance=Provenance(tool="test", tool_version="1", method="random"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shapes = manifest().tensor_shapes(SPEC.hidden_size)
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    write_bundle(tmp_path / "tiny", manifest(), tensors)
    return tmp_path / "tiny"


def ref(folder: Path) -> BundleRef:
    manifest_sha256, tensors_sha256 = file_sha256(folder / MANIFEST_FILE), file_sha256(folder / TENSORS_FILE)
    return BundleRef(digest_of(manifest_sha256, tensors_sha256), manifest_sha256, tensors_sha256)


def test_the_size_is_known_before_loading(folder: Path) -> None:
    loader = AdapterLoader(FolderSource(folder), FakeDevice())
    fetched = loader.fetch(ref(folder))
    adapter = loader.load(fetched)
    assert adapter.digest == ref(folder).digest
    assert adapter.size_bytes == fetched.size_bytes == 2 * 2 * 3 * 2 * 4 * 2 + (2 * 8 + 2) * 4


class CountedPath(type(Path())):  # type: ignore[misc]
    """Counts how often the file is opened for reading."""

    num_reads = 0

    def open(self, *arguments: Any, **options: Any) -> Any:
        type(self).num_reads += 1
        return super().open(*arguments, **options)


def test_the_tensors_are_read_once_to_check_and_once_to_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountedPath, "num_reads", 0)
    source = FolderSource(folder)
    monkeypatch.setattr(
        source, "fetch", lambda _: ((folder / MANIFEST_FILE).read_bytes(), CountedPath(folder / TENSORS_FILE))
    )
    loader = AdapterLoader(source, FakeDevice())
    fetched = loader.fetch(ref(folder))
    assert CountedPath.num_reads == 1
    monkeypatch.setattr(hashlib, "sha256", None)  # the one hash is made
    loader.load(fetched)
    assert CountedPath.num_reads == 2


@pytest.mark.parametrize("name", [MANIFEST_FILE, TENSORS_FILE])
def test_a_changed_byte_is_a_malformed_bundle(folder: Path, tmp_path: Path, name: str) -> None:
    bundle = ref(folder)
    shutil.copytree(folder, tmp_path / "corrupt")
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (tmp_path / "corrupt" / name).write_bytes(content)
    with pytest.raises(MalformedBundle, match=f"{name}.*corrupt"):
        AdapterLoader(FolderSource(tmp_path / "corrupt"), FakeDevice()).fetch(bundle)


def test_a_version_that_names_another_digest_is_refused(folder: Path) -> None:
    bundle = replace(ref(folder), digest="0" * 64)
    with pytest.raises(MalformedBundle, match="0000"):
        AdapterLoader(FolderSource(folder), FakeDevice()).fetch(bundle)


def test_an_adapter_of_another_backbone_is_refused(folder: Path) -> None:
    device = FakeDevice(spec=replace(SPEC, fingerprint="e" * 64))
    with pytest.raises(BackboneMismatch):
        AdapterLoader(FolderSource(folder), device).fetch(ref(folder))


def test_values_must_be_finite_in_the_dtype_of_this_backbone(tmp_path: Path) -> None:
    """They were in that of the backbone on which the bundle was checked."""
    shapes = manifest().tensor_shapes(SPEC.hidden_size)
    write_bundle(tmp_path, manifest(), {name: np.full(shape, 1e5, np.float32) for name, shape in shapes.items()})
    for dtype, is_finite in ((torch.bfloat16, True), (torch.float16, False)):
        loader = AdapterLoader(FolderSource(tmp_path), FakeDevice(dtype=dtype))
        with nullcontext() if is_finite else pytest.raises(NonfiniteTensor, match="float16"):
            loader.load(loader.fetch(ref(tmp_path)))
