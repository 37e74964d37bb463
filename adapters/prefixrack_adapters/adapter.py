"""An adapter in memory: its manifest, its prefix and its head as tensors on a device. Knows no server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.bundle import (
    MANIFEST_FILE,
    TENSORS_FILE,
    BundleTensor,
    bytes_sha256,
    check_files,
    digest_of,
    parse_tensors,
)
from prefixrack_adapters.dense import Dense
from prefixrack_adapters.gates import Gate, GatedPrefix
from prefixrack_adapters.heads import Head
from prefixrack_adapters.manifest import Manifest, parse_manifest


@dataclass(frozen=True, slots=True)
class Adapter:
    """`prefix` is [num_layers, 2, num_kv_heads, prefix_len, head_dim] (layers without one are left out), or None.

    `prompt` is a soft prompt [prefix_len, embedding_size], or None; an adapter has one of the two, or neither. `gates`
    are of the layers that have a prefix, where it has any. Gates and head stay in float32 whatever the backbone's
    dtype: they are small, and logits keep their precision. `layers` is the prefix as attention takes it.
    """

    manifest: Manifest
    digest: str
    prefix: Tensor | None
    head: Head
    prompt: Tensor | None = None
    gates: Sequence[Gate] | None = None
    layers: Prefix | GatedPrefix | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _layers(self))

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Adapter:
        """Read a bundle folder. Raises MalformedBundle or InvalidManifest."""
        folder = Path(folder)
        check_files(folder)
        manifest_bytes, content = (folder / MANIFEST_FILE).read_bytes(), (folder / TENSORS_FILE).read_bytes()
        digest = digest_of(bytes_sha256(manifest_bytes), bytes_sha256(content))
        manifest, tensors = parse_manifest(manifest_bytes), parse_tensors(content)
        return cls.from_tensors(manifest, digest, tensors, device=device, dtype=dtype)

    @classmethod
    def from_arrays(
        cls, manifest: Manifest, arrays: Mapping[str, NDArray[Any]], *, device: str, dtype: torch.dtype
    ) -> Adapter:
        """An adapter that is not a bundle yet (in training, in tests). Its digest is that of its manifest."""
        tensors = {name: BundleTensor("F32", values.astype(np.float32)) for name, values in arrays.items()}
        digest = bytes_sha256(manifest.to_bytes())
        return cls.from_tensors(manifest, digest, tensors, device=device, dtype=dtype)

    @classmethod
    def from_tensors(
        cls,
        manifest: Manifest,
        digest: str,
        tensors: Mapping[str, BundleTensor],
        *,
        device: str,
        dtype: torch.dtype,
    ) -> Adapter:
        """An adapter of the parts of a bundle that the caller has read and checked."""
        return _assemble(manifest, digest, tensors, device, dtype)

    @property
    def tensors(self) -> list[Tensor]:
        gates = [part for gate in self.gates or () for part in (gate.weight, gate.bias)]
        return [*(part for part in (self.prefix, self.prompt) if part is not None), *gates, *self.head.tensors]

    @property
    def size_bytes(self) -> int:
        """Memory on the device."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to(self, device: str, dtype: torch.dtype) -> Adapter:
        """The same adapter for a backbone on `device` in `dtype`; its head stays in float32."""
        prefix, prompt = (
            None if part is None else part.to(device=device, dtype=dtype) for part in (self.prefix, self.prompt)
        )
        gates = None if self.gates is None else [gate.to(device) for gate in self.gates]
        return Adapter(self.manifest, self.digest, prefix, self.head.to(device), prompt, gates)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Adapter:
        """The same adapter with what `move` makes of each tensor: a copy elsewhere, of the same layout and dtype."""
        prefix, prompt = (None if part is None else move(part) for part in (self.prefix, self.prompt))
        gates = None if self.gates is None else [Gate(move(gate.weight), move(gate.bias)) for gate in self.gates]
        return Adapter(self.manifest, self.digest, prefix, self.head.moved(move), prompt, gates)

    def without_prefix(self) -> Adapter:
        """The same head on the bare backbone: shows how much the prefix does."""
        prefix = self.manifest.prefix.model_copy(update={"prefix_len": 0})
        manifest = self.manifest.model_copy(update={"prefix": prefix})
        return Adapter(manifest, f"{self.digest}-without-prefix", None, self.head)


def _layers(adapter: Adapter) -> Prefix | GatedPrefix | None:
    """By layer, None for a layer without a prefix, where not all have one."""
    spec, prefix = adapter.manifest.prefix, adapter.prefix
    if prefix is None or spec.kind == "soft" or (spec.layers is None and adapter.gates is None):
        return prefix
    layers = range(spec.num_layers)
    own = list(layers) if spec.layers is None else spec.layers
    prefixes = dict(zip(own, prefix, strict=True))
    by_layer = [prefixes.get(layer) for layer in layers]
    if adapter.gates is None:
        return by_layer
    gates = dict(zip(own, adapter.gates, strict=True))
    return GatedPrefix(by_layer, [gates.get(layer) for layer in layers])


def _assemble(
    manifest: Manifest, digest: str, tensors: Mapping[str, BundleTensor], device: str, dtype: torch.dtype
) -> Adapter:
    stored = {name: torch.from_numpy(tensor.values) for name, tensor in tensors.items()}
    prefix = prompt = gates = None
    if "prefix" in stored:
        prefix = to_serving_layout(stored["prefix"].to(device=device, dtype=dtype).contiguous())
    if "prompt" in stored:
        prompt = stored["prompt"].to(device=device, dtype=dtype)
    if "gates.weight" in stored:
        weights, biases = stored["gates.weight"].to(device), stored["gates.bias"].to(device)
        gates = [Gate(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    layers = [
        Dense(stored[f"head.{index}.weight"].to(device), _bias(stored, index, device), layer.activation, layer.norm_eps)
        for index, layer in enumerate(manifest.head.layers)
    ]
    return Adapter(manifest, digest, prefix, Head(manifest.head.gather, layers), prompt, gates)


def _bias(stored: dict[str, Tensor], index: int, device: str) -> Tensor | None:
    bias = stored.get(f"head.{index}.bias")
    return None if bias is None else bias.to(device)


def to_serving_layout(prefix: Tensor) -> Tensor:
    """Bundle layout [layers, 2, prefix_len, kv_heads, head_dim] → attention's, with kv_heads before prefix_len.

    A view: in memory a vector's heads stay side by side, as those of a row's own tokens do, so that putting a prefix
    before its row is one run of bytes.
    """
    return prefix.transpose(2, 3)
