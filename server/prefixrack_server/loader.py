"""The loader: from blob store files through host memory to the device, checked on the way. Knows no rows, no budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prefixrack.errors import BlobUnusable, MalformedBundle
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
from prefixrack_adapters.transfer import Uploads
from prefixrack_server.host_tier import HostTier
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
    """Loads versions for one backbone. Raises BlobUnusable where the stored bytes are not the uploaded ones.

    What was loaded stays in the host tier, in the dtype and layout of the device, as far as there is room: such an
    adapter is loaded again by its copy alone. Its checks hold for good, for a digest names bytes.
    """

    def __init__(self, source: AdapterSource, backbone: Device, host: HostTier[Adapter]) -> None:
        self._source = source
        self._backbone = backbone
        self._host = host
        self._uploads = Uploads(backbone.device)

    def at_hand(self, bundle: BundleRef) -> Fetched | None:
        """What is known of a version in host memory; None where its files must be fetched."""
        adapter = self._host.touch(bundle.digest)
        return None if adapter is None else Fetched(bundle, adapter.manifest, None, adapter.size_bytes)

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
        """The adapter on the device, its tensors finite in the dtype of the backbone."""
        adapter = self._host.get(fetched.bundle.digest)
        if adapter is None:
            adapter = self._read(fetched)
            self._host.put(adapter.digest, adapter, sum(map(self._uploads.staged_bytes, adapter.tensors)))
        return self._uploads.upload(adapter.moved)

    def load_at_hand(self, digests: Sequence[str]) -> Mapping[str, Adapter]:
        """The adapters on the device, by digest: their copies are waited for once.

        Left out is what was dropped from host memory meanwhile: reading its files would hold up the others.
        """
        held = {digest: adapter for digest in digests if (adapter := self._host.get(digest)) is not None}
        return self._uploads.upload(lambda copy: {digest: adapter.moved(copy) for digest, adapter in held.items()})

    def evicted(self, digest: str) -> None:
        """Its copy in host memory is the newest use that is known of it; that it was used meanwhile, nobody told."""
        self._host.touch(digest)

    def forget(self, digest: str) -> None:
        self._host.drop(digest)

    def _read(self, fetched: Fetched) -> Adapter:
        """The verified bytes as tensors in host memory, from where they can be uploaded."""
        backbone, manifest = self._backbone, fetched.manifest
        # A copy that was in host memory may have been dropped while the adapter was in line for room.
        path = fetched.tensors_path or self.fetch(fetched.bundle).tensors_path
        assert path is not None, "fetched files have a path"
        dtype_name = str(backbone.dtype).removeprefix("torch.")
        tensors = dict(checked_tensors(manifest, path.read_bytes(), backbone.spec, dtype_name))
        adapter = Adapter.from_tensors(manifest, fetched.bundle.digest, tensors, device="cpu", dtype=backbone.dtype)
        return adapter.moved(self._uploads.staged)


def device_bytes(manifest: Manifest, hidden_size: int, prefix_itemsize: int) -> int:
    """Memory that the adapter will take: the prefix in the serving dtype, the head in float32."""
    num_values = {name: math.prod(shape) for name, shape in manifest.tensor_shapes(hidden_size).items()}
    num_prefix_values = sum(num_values.pop(name, 0) for name in PREFIX_TENSORS)
    return num_prefix_values * prefix_itemsize + sum(num_values.values()) * HEAD_ITEMSIZE


def check_digest(bundle: BundleRef, manifest_sha256: str, tensors_sha256: str) -> None:
    """The stored files must be those that the digest names. Raises BlobUnusable, or MalformedBundle where the version
    contradicts itself."""
    _check_sha256(MANIFEST_FILE, manifest_sha256, bundle.manifest_sha256)
    _check_sha256(TENSORS_FILE, tensors_sha256, bundle.tensors_sha256)
    digest = digest_of(bundle.manifest_sha256, bundle.tensors_sha256)
    if digest != bundle.digest:
        raise MalformedBundle(f"the files have digest {digest}, the version says {bundle.digest}: upload it again")


def _check_sha256(name: str, seen: str, expected: str) -> None:
    if seen != expected:
        raise BlobUnusable(
            f"the stored {name} has sha256 {seen}, {expected} was uploaded: the blob is corrupt, upload its adapter "
            "again or restore a backup"
        )
