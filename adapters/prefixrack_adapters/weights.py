"""A backbone's weight files, read through a memory map by numpy alone: no torch, no copy of what is not asked for."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from prefixrack.errors import UnsupportedBackbone

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"

NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """One stored tensor: `flat` is the mapped data in file order; bfloat16 comes as its 16-bit pattern."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    flat: NDArray[Any]

    def sample(self, num_values: int) -> NDArray[np.float32]:
        """Up to `num_values` evenly spaced values as float32."""
        size = self.flat.shape[0]
        count = min(num_values, size)
        picks = (np.arange(count, dtype=np.int64) * (size - 1)) // max(count - 1, 1)
        values = np.ascontiguousarray(self.flat[picks])
        return self._widen(values)

    def read(self) -> NDArray[np.float32]:
        return self._widen(np.ascontiguousarray(self.flat)).reshape(self.shape)

    def _widen(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if self.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


def weight_tensors(folder: Path) -> Iterator[WeightTensor]:
    """Every floating-point tensor of a backbone folder. Raises UnsupportedBackbone where there is no weight file."""
    for path in weight_files(folder):
        yield from _torch_tensors(path) if path.suffix == ".bin" else _mapped_tensors(path)


def weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    for name in (SINGLE_FILE, TORCH_FILE):
        if (folder / name).is_file():
            return [folder / name]
    raise UnsupportedBackbone(
        f"{folder} holds no weights: one of {SINGLE_FILE}, {INDEX_FILE} or {TORCH_FILE} is needed; "
        "give the folder that `save_pretrained` wrote"
    )


def _mapped_tensors(path: Path) -> Iterator[WeightTensor]:
    with safe_open(path, framework="numpy"):
        pass  # the library checks the header; the map below trusts it
    with path.open("rb") as file:
        header_len = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_len))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + header_len)
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in NUMPY_DTYPES:
            start, end = entry["data_offsets"]
            flat = data[start:end].view(NUMPY_DTYPES[entry["dtype"]])
            yield WeightTensor(name, tuple(entry["shape"]), entry["dtype"], flat)


def _torch_tensors(path: Path) -> Iterator[WeightTensor]:
    import torch  # only for old .bin files: nothing else here needs it

    # files from before PyTorch 1.6 are no zip archives and cannot be mapped
    state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    for name, tensor in state.items():
        if tensor.is_floating_point():
            flat = tensor.float().flatten().numpy()
            yield WeightTensor(name, tuple(tensor.shape), "F32", flat)
