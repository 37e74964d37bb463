"""The loader: from blob store files to an adapter on the device, checked on the way. Knows no rows and no budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

from prefixrack.errors import MalformedBundle
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.bundle import (
    MANIFEST_FILE,
    PREFIX_TENSORS,
    TENSORS_FILE,
    bytes_sha256,
    check_backbone,
    checked_tensors,
    digest_of,
    file_sha256,
)
from prefixrack_adapters.manifest import Manifest, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.messages import BundleRef
from prefixrack_server.residency import Fetched

HEAD_ITEMSIZE = 4  # heads stay in float32, whatever the backbone's dtype


class AdapterSource(Protocol):
    """Where the files of a version come from. Called in fetchers."""

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        """The manifest's bytes, and a local path of the tensors file."""


class Device(Protocol):
    """What the loader must know of the backbone."""

    @property
    def spec(self) -> BackboneSpec: ...

    @property
    def device(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


class AdapterLoader:
    """Loads versions for one backbone. Raises MalformedBundle where the stored bytes are not the uploaded ones."""

    def __init__(self, source: AdapterSource, backbone: Device) -> None:
        self._source = source
        self._backbone = backbone

    def fetch(self, bundle: BundleRef) -> Fetched:
        """Get the files and see that they are those of the upload, and that the manifest fits this backbone.

        The tensors are read through and not kept: others may be in line for room before this one, and all would lie in
        memory. They come from the system's file cache when they are loaded.
        """
        manifest_bytes, tensors_path = self._source.fetch(bundle)
        check_digest(bundle, bytes_sha256(manifest_bytes), file_sha256(tensors_path))
        manifest = parse_manifest(manifest_bytes)
        check_backbone(manifest, self._backbone.spec)  # it may be another one than at the upload
        size_bytes = device_bytes(manifest, self._backbone.spec.hidden_size, self._backbone.dtype.itemsize)
        return Fetched(bundle, manifest, tensors_path, size_bytes)

    def load(self, fetched: Fetched) -> Adapter:
        """The verified bytes as tensors, finite in the dtype of this backbone, on its device."""
        backbone, manifest = self._backbone, fetched.manifest
        dtype_name = str(backbone.dtype).removeprefix("torch.")
        content = fetched.tensors_path.read_bytes()
        tensors = dict(checked_tensors(manifest, content, backbone.spec, dtype_name))
        return Adapter.from_tensors(
            manifest, fetched.bundle.digest, tensors, device=backbone.device, dtype=backbone.dtype
        )


def device_bytes(manifest: Manifest, hidden_size: int, prefix_itemsize: int) -> int:
    """Memory that the adapter will take: the prefix in the serving dtype, the head in float32."""
    num_values = {name: math.prod(shape) for name, shape in manifest.tensor_shapes(hidden_size).items()}
    num_prefix_values = sum(num_values.pop(name, 0) for name in PREFIX_TENSORS)
    return num_prefix_values * prefix_itemsize + sum(num_values.values()) * HEAD_ITEMSIZE


def check_digest(bundle: BundleRef, manifest_sha256: str, tensors_sha256: str) -> None:
    """The stored files must be those that the digest names. Raises MalformedBundle."""
    _check_sha256(MANIFEST_FILE, manifest_sha256, bundle.manifest_sha256)
    _check_sha256(TENSORS_FILE, tensors_sha256, bundle.tensors_sha256)
    digest = digest_of(bundle.manifest_sha256, bundle.tensors_sha256)
    if digest != bundle.digest:
        raise MalformedBundle(f"the files have digest {digest}, the version says {bundle.digest}: upload it again")


def _check_sha256(name: str, seen: str, expected: str) -> None:
    if seen != expected:
        raise MalformedBundle(
            f"the stored {name} has sha256 {seen}, {expected} was uploaded: the blob is corrupt, upload it again"
        )
