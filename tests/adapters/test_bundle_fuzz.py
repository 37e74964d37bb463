"""Any bytes in place of a bundle: the reader takes them or raises a fault that has a name, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefixrack.errors import BundleFault
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, check_contents
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from tiny import write_random_bundle

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTH_BYTES = 8  # of a safetensors file, before its header

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


class Files(NamedTuple):
    manifest: bytes
    tensors: bytes
    spec: BackboneSpec

    @property
    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = json.loads(self.tensors[LENGTH_BYTES : LENGTH_BYTES + self.header_len])
        return header

    @property
    def header_len(self) -> int:
        return int.from_bytes(self.tensors[:LENGTH_BYTES], "little")

    @property
    def data(self) -> bytes:
        return self.tensors[LENGTH_BYTES + self.header_len :]


@pytest.fixture
def files(tmp_path: Path, spec: BackboneSpec) -> Files:
    folder = write_random_bundle(tmp_path / "bundle", spec)
    return Files((folder / MANIFEST_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes(), spec)


def read(files: Files, manifest: bytes, tensors: bytes) -> Manifest | BundleFault:
    """Whatever else is raised fails the test."""
    try:
        return check_contents(manifest, tensors, files.spec, "float32")
    except BundleFault as fault:
        outcome = fault
    assert 0 < len(outcome.detail) < 2000
    return outcome


def changed(data: st.DataObject, content: bytes) -> bytes:
    """With some bytes overwritten, put in, or cut out."""
    edited = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(edited)))
        last = min(len(edited), first + data.draw(st.integers(0, 64)))
        edited[first:last] = data.draw(st.binary(max_size=64))
    return bytes(edited)


def test_the_files_themselves_are_taken(files: Files) -> None:
    assert isinstance(read(files, files.manifest, files.tensors), Manifest)


@FUZZ
@given(manifest=st.binary(max_size=200), tensors=st.binary(max_size=200))
def test_random_bytes(files: Files, manifest: bytes, tensors: bytes) -> None:
    assert isinstance(read(files, manifest, files.tensors), BundleFault)
    assert isinstance(read(files, files.manifest, tensors), BundleFault)


@FUZZ
@given(data=st.data())
def test_changed_bytes(files: Files, data: st.DataObject) -> None:
    read(files, changed(data, files.manifest), files.tensors)
    read(files, files.manifest, changed(data, files.tensors))


@FUZZ
@given(data=st.data())
def test_a_manifest_with_any_values_at_any_place(files: Files, data: st.DataObject) -> None:
    document = json.loads(files.manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(values)
    read(files, json.dumps(document).encode(), files.tensors)


@FUZZ
@given(data=st.data())
def test_a_header_with_any_values_at_any_place(files: Files, data: st.DataObject) -> None:
    header = files.header
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)) | st.text(max_size=8))
        entry = header.get(name)
        if isinstance(entry, dict) and data.draw(st.booleans()):
            entry[data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = data.draw(values)
        else:
            header[name] = data.draw(values)
    encoded = json.dumps(header).encode()
    length = data.draw(st.just(len(encoded)) | st.integers(0, (1 << 64) - 1)).to_bytes(LENGTH_BYTES, "little")
    read(files, files.manifest, length + encoded + files.data)
