"""The loader: files whose bytes are not the uploaded ones never become an adapter; sizes are known before loading."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_machine import SPEC
from prefixrack.errors import BackboneMismatch, BlobUnusable, MalformedBundle, NonfiniteTensor
from prefixrack_adapters.adapter import Adapter
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
from prefixrack_adapters.transfer import Uploads
from prefixrack_server.host_tier import HostTier
from prefixrack_server.loader import AdapterLoader, AdapterSource
from prefixrack_server.messages import BundleRef


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


def write_random(folder: Path, seed: int) -> Path:
    shapes = manifest().tensor_shapes(SPEC.hidden_size)
    random = np.random.default_rng(seed)
    tensors = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    write_bundle(folder, manifest(), tensors)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random(tmp_path / "tiny", seed=0)


def ref(folder: Path) -> BundleRef:
    manifest_sha256, tensors_sha256 = file_sha256(folder / MANIFEST_FILE), file_sha256(folder / TENSORS_FILE)
    return BundleRef(digest_of(manifest_sha256, tensors_sha256), manifest_sha256, tensors_sha256)


def loader_of(source: AdapterSource, device: FakeDevice, host_bytes: int = 0) -> AdapterLoader:
    return AdapterLoader(source, device, HostTier(host_bytes))


def test_the_size_is_known_before_loading(folder: Path) -> None:
    loader = loader_of(FolderSource(folder), FakeDevice())
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
    loader = loader_of(source, FakeDevice())
    fetched = loader.fetch(ref(folder))
    assert CountedPath.num_reads == 1
    monkeypatch.setattr(hashlib, "sha256", None)  # the one hash is made
    loader.load(fetched)
    assert CountedPath.num_reads == 2


@pytest.mark.parametrize("name", [MANIFEST_FILE, TENSORS_FILE])
def test_a_changed_byte_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    bundle = ref(folder)
    shutil.copytree(folder, tmp_path / "corrupt")
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (tmp_path / "corrupt" / name).write_bytes(content)
    with pytest.raises(BlobUnusable, match=f"{name}.*corrupt"):
        loader_of(FolderSource(tmp_path / "corrupt"), FakeDevice()).fetch(bundle)


def test_a_version_that_names_another_digest_is_refused(folder: Path) -> None:
    bundle = replace(ref(folder), digest="0" * 64)
    with pytest.raises(MalformedBundle, match="0000"):
        loader_of(FolderSource(folder), FakeDevice()).fetch(bundle)


def test_an_adapter_of_another_backbone_is_refused(folder: Path) -> None:
    device = FakeDevice(spec=replace(SPEC, fingerprint="e" * 64))
    with pytest.raises(BackboneMismatch):
        loader_of(FolderSource(folder), device).fetch(ref(folder))


def test_values_must_be_finite_in_the_dtype_of_this_backbone(tmp_path: Path) -> None:
    """They were in that of the backbone on which the bundle was checked."""
    shapes = manifest().tensor_shapes(SPEC.hidden_size)
    write_bundle(tmp_path, manifest(), {name: np.full(shape, 1e5, np.float32) for name, shape in shapes.items()})
    for dtype, is_finite in ((torch.bfloat16, True), (torch.float16, False)):
        loader = loader_of(FolderSource(tmp_path), FakeDevice(dtype=dtype))
        with nullcontext() if is_finite else pytest.raises(NonfiniteTensor, match="float16"):
            loader.load(loader.fetch(ref(tmp_path)))


@dataclass
class MissingSource(FolderSource):
    """Counts how often it was asked, and has nothing once `is_gone`."""

    is_gone: bool = False
    num_fetches: int = 0

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        self.num_fetches += 1
        if self.is_gone:
            raise MalformedBundle("the files are gone")
        return super().fetch(bundle)


def test_what_is_in_host_memory_is_loaded_without_its_files(folder: Path) -> None:
    source = MissingSource(folder)
    host: HostTier[Adapter] = HostTier(1 << 20)
    loader = AdapterLoader(source, FakeDevice(), host)
    first = loader.load(loader.fetch(ref(folder)))
    source.is_gone = True
    fetched = loader.at_hand(ref(folder))
    assert fetched is not None
    (again,) = loader.load_at_hand([first.digest]).values()
    assert (source.num_fetches, host.stats().num_hits) == (1, 1)
    assert fetched.size_bytes == again.size_bytes == host.stats().held_bytes
    assert (again.manifest, again.digest) == (first.manifest, first.digest)
    for seen, wanted in zip(again.tensors, first.tensors, strict=True):
        assert seen.stride() == wanted.stride()
        assert torch.equal(seen, wanted)


def test_a_copy_that_was_dropped_in_the_line_for_room_is_read_again(folder: Path) -> None:
    source = MissingSource(folder)
    host: HostTier[Adapter] = HostTier(1 << 20)
    loader = AdapterLoader(source, FakeDevice(), host)
    loader.load(loader.fetch(ref(folder)))
    fetched = loader.at_hand(ref(folder))
    assert fetched is not None
    host.drop(ref(folder).digest)
    assert loader.load_at_hand([ref(folder).digest]) == {}
    assert loader.load(fetched).digest == ref(folder).digest
    assert (source.num_fetches, host.stats().num_hits) == (2, 0)


@pytest.mark.parametrize("host_bytes", [0, 1 << 20])
def test_what_is_forgotten_is_fetched_from_its_files(folder: Path, host_bytes: int) -> None:
    source = MissingSource(folder)
    loader = loader_of(source, FakeDevice(), host_bytes)
    loader.load(loader.fetch(ref(folder)))
    loader.forget(ref(folder).digest)
    assert loader.at_hand(ref(folder)) is None
    source.is_gone = True
    with pytest.raises(MalformedBundle, match="gone"):
        loader.fetch(ref(folder))


@dataclass
class FolderSources:
    folders: Sequence[Path]

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        folder = next(folder for folder in self.folders if ref(folder) == bundle)
        return FolderSource(folder).fetch(bundle)


def test_several_that_are_in_host_memory_wait_once_for_their_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [write_random(tmp_path / str(seed), seed) for seed in range(3)]
    loader = loader_of(FolderSources(folders), FakeDevice(), 1 << 20)
    adapters = {ref(folder).digest: loader.load(loader.fetch(ref(folder))) for folder in folders}
    waits = []
    upload = Uploads.upload

    def noted(uploads: Uploads, copy_all: Any) -> Any:
        waits.append(copy_all)
        return upload(uploads, copy_all)

    monkeypatch.setattr(Uploads, "upload", noted)
    together = loader.load_at_hand(list(adapters))
    assert len(waits) == 1
    assert together.keys() == adapters.keys()
    for digest, adapter in together.items():
        assert adapter.digest == digest
        assert all(map(torch.equal, adapter.tensors, adapters[digest].tensors))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_what_a_gpu_computes_with_is_not_overwritten_by_later_uploads(tmp_path: Path) -> None:
    """The default stream is busy and has not read an adapter yet when that is let go and others are uploaded."""
    folders = [write_random(tmp_path / name, seed) for seed, name in enumerate(("own", "other"))]
    host: HostTier[Adapter] = HostTier(1 << 20)
    loader = AdapterLoader(FolderSources(folders), FakeDevice(device="cuda"), host)
    adapter = loader.load(loader.fetch(ref(folders[0])))
    staged = host.touch(adapter.digest)
    assert staged is not None
    assert all(tensor.is_pinned() for tensor in staged.tensors)
    assert [tensor.stride() for tensor in adapter.tensors] == [tensor.stride() for tensor in staged.tensors]
    torch.cuda._sleep(10**9)
    doubled = [tensor * 2 for tensor in adapter.tensors]
    del adapter
    other = loader.load(loader.fetch(ref(folders[1])))
    others = [loader.load_at_hand([other.digest]) for _ in range(8)]
    assert host.stats().num_hits == len(others)
    for seen, tensor in zip(doubled, staged.tensors, strict=True):
        assert torch.equal(seen.cpu(), tensor * 2)
