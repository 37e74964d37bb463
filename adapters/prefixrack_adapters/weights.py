"""A backbone's weight files, read tensor by tensor through memory maps: no torch, no copy of what is not asked for."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.file_pages import FilePages

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS = ".safetensors"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"
TORCH_INDEX_FILE = "pytorch_model.bin.index.json"
RANK_FILES = "mp_rank_*_model_states.pt"  # SwissArmyTransformer's, in the folder that the file `latest` names
RANK_POINTER = "latest"
WEIGHT_FILES = (SINGLE_FILE, INDEX_FILE, TORCH_FILE, TORCH_INDEX_FILE)  # the first that is there counts

NUMPY_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TORCH_DTYPES = {"torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """One stored tensor, not read yet. `dtype` is "F64", "F32", "F16" or "BF16".

    `open` gives its values flat in file order, mapped; bfloat16 comes as its 16-bit pattern. What was read of them
    counts as this process's memory until the context ends.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    open: Callable[[], AbstractContextManager[NDArray[Any]]]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def sample(self, num_values: int) -> NDArray[np.float32]:
        """Up to `num_values` evenly spaced values as float32."""
        count = min(num_values, self.size)
        picks = (np.arange(count, dtype=np.int64) * (self.size - 1)) // max(count - 1, 1)
        with self.open() as flat:
            return self._widen(np.asarray(flat[picks]))

    def read(self) -> NDArray[np.float32]:
        with self.open() as flat:
            return self._widen(np.asarray(flat)).reshape(self.shape)

    def as_stored(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What would be read of `values` if they had been stored in this tensor's dtype."""
        with np.errstate(over="ignore"):  # beyond float16 lies infinity, which equals nothing that is stored
            narrow = bfloat16_bits(values) if self.dtype == "BF16" else values.astype(NUMPY_DTYPES[self.dtype])
        return self._widen(narrow)

    def _widen(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if self.dtype == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


def bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest even, as torch and the hardware do: the 16-bit patterns, little-endian."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2")


def weight_tensors(folder: Path) -> Iterator[WeightTensor]:
    """Every floating-point tensor of a backbone folder. Raises UnsupportedBackbone where there is no weight file."""
    for path in weight_files(folder):
        yield from _mapped_tensors(path) if path.suffix == SAFETENSORS else _torch_tensors(path)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises UnsupportedBackbone where there are none, or one of them is missing."""
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None) or _only_rank(folder)
    if found is None:
        raise UnsupportedBackbone(
            f"{folder} holds no weights: one of {', '.join(WEIGHT_FILES)} is needed; give the folder that "
            "`save_pretrained` wrote"
        )
    paths = _indexed_files(found) if found.suffix == ".json" else [found]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UnsupportedBackbone(
            f"{folder} lacks {', '.join(missing[:4])} ({len(missing)} of the {len(paths)} files that {found.name} "
            "names): copy or fetch the whole folder again"
        )
    return paths


def _only_rank(folder: Path) -> Path | None:
    ranks = rank_files(folder)
    if len(ranks) > 1:
        raise UnsupportedBackbone(
            f"{ranks[0].parent} holds the parts of {len(ranks)} model-parallel ranks; one is needed: merge them first "
            "with SwissArmyTransformer's own merge_model"
        )
    return ranks[0] if ranks else None


def rank_files(folder: Path) -> list[Path]:
    """SwissArmyTransformer's state files in a folder or in the one that its `latest` names, one per rank."""
    pointer = folder / RANK_POINTER
    inner = folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else folder
    return sorted(inner.glob(RANK_FILES))


def torch_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, mapped. Raises UnsupportedBackbone where it has other objects."""
    import torch  # only for old files: nothing else here needs it

    try:
        # files from before PyTorch 1.6 are no zip archives and cannot be mapped
        state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UnsupportedBackbone(
            f"{path} is not a file of plain tensors ({reason}): copy it again, or save its tensors as {SINGLE_FILE}"
        ) from None
    named = state.get("module", state).items()
    return {name: value for name, value in named if isinstance(value, torch.Tensor)}


def _indexed_files(index: Path) -> list[Path]:
    return [index.parent / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def stored_dtypes(folder: Path) -> Counter[str]:
    """Number of stored values by dtype ("F32", "BF16" …), largest first."""
    counts = Counter[str]()
    for tensor in weight_tensors(folder):
        counts[tensor.dtype] += tensor.size
    return Counter(dict(counts.most_common()))


def _mapped_tensors(path: Path) -> Iterator[WeightTensor]:
    with safe_open(path, framework="numpy"):
        pass  # the library checks the header; the map below trusts it
    with path.open("rb") as file:
        header_len = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_len))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in NUMPY_DTYPES:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            start = 8 + header_len + entry["data_offsets"][0]
            yield WeightTensor(name, shape, dtype, partial(_map, path, NUMPY_DTYPES[dtype], start, math.prod(shape)))


@contextmanager
def _map(path: Path, dtype: str, start: int, size: int) -> Iterator[NDArray[Any]]:
    """A map of this tensor alone, which ends with the last array on it."""
    yield np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(size,)) if size else np.empty(0, dtype)


def _torch_tensors(path: Path) -> Iterator[WeightTensor]:
    state = torch_state(path)
    pages = FilePages()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            dtype = TORCH_DTYPES[str(tensor.dtype)]
            yield WeightTensor(name, tuple(tensor.shape), dtype, partial(_torch_values, tensor, pages))


@contextmanager
def _torch_values(tensor: Tensor, pages: FilePages) -> Iterator[NDArray[Any]]:
    """The map is that of the whole file and stays: what was read is given back to the system."""
    import torch

    flat = tensor.detach().flatten()
    yield flat.view(torch.int16).numpy().view("<u2") if flat.dtype is torch.bfloat16 else flat.numpy()
    pages.give_back(flat.data_ptr(), flat.nbytes)
