"""Bundles that are none, drawn by hypothesis from one that is: any bytes, bytes changed, values changed. Knows no
reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE

LENGTH_BYTES: Final = 8  # of a safetensors file, before its header

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


class Files(NamedTuple):
    """The two files of a bundle."""

    manifest: bytes
    tensors: bytes

    @classmethod
    def of(cls, folder: Path) -> Files:
        return cls((folder / MANIFEST_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes())

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


Mutation = Callable[[Files, st.DataObject], Files]


def random_manifest(files: Files, data: st.DataObject) -> Files:
    return files._replace(manifest=data.draw(st.binary(max_size=200)))


def random_tensors(files: Files, data: st.DataObject) -> Files:
    return files._replace(tensors=data.draw(st.binary(max_size=200)))


def changed_manifest(files: Files, data: st.DataObject) -> Files:
    return files._replace(manifest=_changed(files.manifest, data))


def changed_tensors(files: Files, data: st.DataObject) -> Files:
    return files._replace(tensors=_changed(files.tensors, data))


def any_manifest_values(files: Files, data: st.DataObject) -> Files:
    """At any place."""
    document = json.loads(files.manifest)
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(values)
    return files._replace(manifest=json.dumps(document).encode())


def any_header_values(files: Files, data: st.DataObject) -> Files:
    """At any place of the safetensors header, and perhaps another length before it."""
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
    return files._replace(tensors=length + encoded + files.data)


RANDOM: Final[tuple[Mutation, ...]] = (random_manifest, random_tensors)
CHANGED: Final[tuple[Mutation, ...]] = (changed_manifest, changed_tensors, any_manifest_values, any_header_values)


def _changed(content: bytes, data: st.DataObject) -> bytes:
    """With some bytes overwritten, put in, or cut out."""
    edited = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(edited)))
        last = min(len(edited), first + data.draw(st.integers(0, 64)))
        edited[first:last] = data.draw(st.binary(max_size=64))
    return bytes(edited)
