"""An adapter in memory: its manifest, its prefix and its head as tensors on a device. Knows no server."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.bundle import (
    MANIFEST_FILE,
    TENSORS_FILE,
    BundleTensor,
    bundle_digest,
    digest_of,
    file_sha256,
    read_tensors,
)
from prefixrack_adapters.heads import Dense, Head
from prefixrack_adapters.manifest import Manifest, parse_manifest


@dataclass(frozen=True, slots=True)
class Adapter:
    """`prefix` is [num_layers, 2, num_kv_heads, prefix_len, head_dim], or None for prefix_len 0.

    The head stays in float32 whatever the backbone's dtype: it is small, and logits keep their precision.
    """

    manifest: Manifest
    digest: str
    prefix: Tensor | None
    head: Head

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Adapter:
        """Read a bundle folder. Raises MalformedBundle or InvalidManifest."""
        folder = Path(folder)
        digest = bundle_digest(folder)
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
        return _assemble(manifest, digest, read_tensors(folder / TENSORS_FILE), device, dtype)

    @classmethod
    def from_files(cls, manifest_bytes: bytes, tensors_path: Path, *, device: str, dtype: torch.dtype) -> Adapter:
        """As `load`, from the two files wherever they lie."""
        digest = digest_of(hashlib.sha256(manifest_bytes).hexdigest(), file_sha256(tensors_path))
        return _assemble(parse_manifest(manifest_bytes), digest, read_tensors(tensors_path), device, dtype)

    @classmethod
    def from_arrays(
        cls, manifest: Manifest, arrays: Mapping[str, NDArray[Any]], *, device: str, dtype: torch.dtype
    ) -> Adapter:
        """An adapter that is not a bundle yet (in training, in tests). Its digest is that of its manifest."""
        tensors = {name: BundleTensor("F32", values.astype(np.float32)) for name, values in arrays.items()}
        digest = hashlib.sha256(manifest.to_bytes()).hexdigest()
        return _assemble(manifest, digest, tensors, device, dtype)

    @property
    def size_bytes(self) -> int:
        """Memory on the device."""
        return self.head.size_bytes + (self.prefix.nbytes if self.prefix is not None else 0)

    def to(self, device: str, dtype: torch.dtype) -> Adapter:
        """The same adapter for a backbone on `device` in `dtype`; its head stays in float32."""
        prefix = None if self.prefix is None else self.prefix.to(device=device, dtype=dtype)
        return Adapter(self.manifest, self.digest, prefix, self.head.to(device))

    def without_prefix(self) -> Adapter:
        """The same head on the bare backbone: shows how much the prefix does."""
        prefix = self.manifest.prefix.model_copy(update={"prefix_len": 0})
        manifest = self.manifest.model_copy(update={"prefix": prefix})
        return Adapter(manifest, f"{self.digest}-without-prefix", None, self.head)


def _assemble(
    manifest: Manifest, digest: str, tensors: dict[str, BundleTensor], device: str, dtype: torch.dtype
) -> Adapter:
    stored = {name: torch.from_numpy(tensor.values) for name, tensor in tensors.items()}
    prefix = None
    if manifest.prefix.prefix_len:
        prefix = to_serving_layout(stored["prefix"]).to(device=device, dtype=dtype).contiguous()
    layers = [
        Dense(stored[f"head.{index}.weight"].to(device), _bias(stored, index, device), layer.activation)
        for index, layer in enumerate(manifest.head.layers)
    ]
    return Adapter(manifest, digest, prefix, Head(manifest.head.gather, layers))


def _bias(stored: dict[str, Tensor], index: int, device: str) -> Tensor | None:
    bias = stored.get(f"head.{index}.bias")
    return None if bias is None else bias.to(device)


def to_serving_layout(prefix: Tensor) -> Tensor:
    """Bundle layout [layers, 2, prefix_len, kv_heads, head_dim] → attention's, with kv_heads before prefix_len."""
    return prefix.transpose(2, 3)
