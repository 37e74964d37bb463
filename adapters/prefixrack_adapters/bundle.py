"""The adapter bundle on disk and on the wire: read, write, digest, validate. No torch; knows no server.

The format is stated in MUSTs in `adapters/README.md`. Nothing here ever unpickles.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from prefixrack.errors import (
    BackboneMismatch,
    MalformedBundle,
    NonfiniteTensor,
    TensorMismatch,
)
from prefixrack_adapters.manifest import Manifest, PrefixSpec, PromptSpec, parse_manifest
from prefixrack_adapters.spec import BackboneSpec

MANIFEST_FILE = "adapter.json"
TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
BUNDLE_FILES = (MANIFEST_FILE, TENSORS_FILE, CARD_FILE)

PREFIX_TENSORS = ("prefix", "prompt")  # stored in the prefix's dtype, the others in the head's
STORED_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Largest finite value of each dtype; bfloat16 has float32's range but fewer bits, so it rounds up to infinity earlier.
LARGEST = {"float32": 3.4028235e38, "float16": 65504.0, "bfloat16": 3.3895314e38}


@dataclass(frozen=True, slots=True)
class BundleTensor:
    """Shape and stored dtype ("F32", "F16", "BF16") of one tensor, and its values as float32."""

    dtype: str
    values: NDArray[np.float32]


def digest_of(manifest_sha256: str, tensors_sha256: str) -> str:
    """Identity of a version: sha256 over the sorted lines `name sha256`; the card is outside it."""
    lines = sorted([f"{MANIFEST_FILE} {manifest_sha256}\n", f"{TENSORS_FILE} {tensors_sha256}\n"])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def bytes_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path) -> None:
    """Raises MalformedBundle, naming the folder or the file that is missing."""
    if not folder.is_dir():
        raise MalformedBundle(f"there is no folder {folder}: a bundle is {MANIFEST_FILE} and {TENSORS_FILE} in one")
    for name in (MANIFEST_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise MalformedBundle(f"{folder} has no {name}: a bundle is {MANIFEST_FILE} and {TENSORS_FILE}")


def bundle_digest(folder: Path) -> str:
    """Digest of the bundle in a folder. Raises MalformedBundle, naming the file that is missing."""
    check_files(folder)
    return digest_of(file_sha256(folder / MANIFEST_FILE), file_sha256(folder / TENSORS_FILE))


def write_bundle(
    folder: Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]], card: str | None = None
) -> None:
    """Write a bundle. `tensors` are numpy arrays in their stored dtype, float32 or float16."""
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    (folder / TENSORS_FILE).write_bytes(save(contiguous))  # the library's own writer makes a file for its owner alone
    (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    if card is not None:
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


def tar_bundle(folder: Path) -> Iterator[bytes]:
    """The bundle as an uncompressed tar, file by file; equal bundles give equal bytes."""
    for name in BUNDLE_FILES:
        path = folder / name
        if path.is_file():
            yield from _tar_entry(name, path)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _tar_entry(name: str, path: Path) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    yield info.tobuf(tarfile.USTAR_FORMAT)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block
    yield bytes(-info.size % tarfile.BLOCKSIZE)


def read_tensors(path: Path) -> dict[str, BundleTensor]:
    """All tensors of a bundle's file. Raises as `parse_tensors`."""
    return parse_tensors(path.read_bytes())


def parse_tensors(content: bytes) -> dict[str, BundleTensor]:
    """All tensors of a bundle. Raises MalformedBundle for anything that is not a sound safetensors file."""
    return {name: _tensor(name, entry) for name, entry in _entries(content)}


def _entries(content: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name, dtype, shape and bytes of each tensor. The library checks header and offsets before it hands any out."""
    try:
        entries: list[tuple[str, dict[str, Any]]] = deserialize(content)
    except SafetensorError as error:
        raise MalformedBundle(
            f"{TENSORS_FILE} is not a sound safetensors file ({error}): pickles and other formats are never opened; "
            "convert on your own machine and upload safetensors"
        ) from None
    return entries


def _tensor(name: str, entry: Mapping[str, Any]) -> BundleTensor:
    dtype, data = entry["dtype"], entry["data"]
    match dtype:
        case "F32":
            values = np.frombuffer(data, "<f4").astype(np.float32)
        case "F16":
            values = np.frombuffer(data, "<f2").astype(np.float32)
        case "BF16":
            values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        case _:
            raise TensorMismatch(f"tensor {name!r} has dtype {dtype}; F32, F16 and BF16 are allowed")
    return BundleTensor(dtype, values.reshape(entry["shape"]))


def check_bundle(manifest_bytes: bytes, tensors_path: Path, spec: BackboneSpec, serving_dtype: str) -> Manifest:
    """Everything that can be checked without running the adapter. Returns the manifest.

    Raises MalformedBundle where the tensors cannot be read, else as `check_contents`.
    """
    try:
        content = tensors_path.read_bytes()
    except OSError as error:
        raise MalformedBundle(
            f"{TENSORS_FILE} cannot be read ({error.strerror}): upload the file that `prefixrack train` wrote"
        ) from None
    return check_contents(manifest_bytes, content, spec, serving_dtype)


def check_contents(manifest_bytes: bytes, tensors: bytes, spec: BackboneSpec, serving_dtype: str) -> Manifest:
    """The same, of what the two files hold: it is parsed once.

    Raises a BundleFault that names what was seen and what is allowed: InvalidManifest, LabelMismatch,
    BackboneMismatch, MalformedBundle, TensorMismatch, NonfiniteTensor.
    """
    manifest = parse_manifest(manifest_bytes)
    check_backbone(manifest, spec)
    for _ in checked_tensors(manifest, tensors, spec, serving_dtype):
        pass  # one at a time: nobody needs them together
    return manifest


def checked_tensors(
    manifest: Manifest, content: bytes, spec: BackboneSpec, serving_dtype: str
) -> Iterator[tuple[str, BundleTensor]]:
    """The tensors by name, each as soon as it is found sound; names, dtypes and shapes of all before the first.

    Raises MalformedBundle, TensorMismatch or NonfiniteTensor.
    """
    entries = _entries(content)
    _check_header(entries, manifest, manifest.tensor_shapes(spec.hidden_size))
    for name, entry in entries:
        tensor = _tensor(name, entry)
        _check_finite(name, tensor.values, serving_dtype)
        yield name, tensor


def check_backbone(manifest: Manifest, spec: BackboneSpec) -> None:
    """Raises BackboneMismatch or TensorMismatch where an adapter cannot run on this backbone."""
    ref = manifest.backbone
    if ref.fingerprint != spec.fingerprint:
        raise BackboneMismatch(
            f"the adapter was trained on {ref.model_id!r} (fingerprint {ref.fingerprint[:12]}…), this backbone is "
            f"{spec.model_id!r} (fingerprint {spec.fingerprint[:12]}…): train it on this backbone, or start the server "
            "with the other one"
        )
    prefix = manifest.prefix
    _check_prefix(prefix, spec)
    room = spec.room(prefix)
    if room < 4:
        raise TensorMismatch(
            f"a prefix of {prefix.prefix_len} leaves {room} of the backbone's {spec.max_positions} positions for text; "
            "at least 4 are needed: use a shorter prefix"
        )


def _check_prefix(prefix: PrefixSpec | PromptSpec, spec: BackboneSpec) -> None:
    if isinstance(prefix, PromptSpec):
        if prefix.width != spec.embedding_size:
            raise TensorMismatch(
                f"the soft prompt has vectors of {prefix.width}, the backbone's word vectors have "
                f"{spec.embedding_size}: they must be equal"
            )
        return
    seen = (prefix.num_layers, prefix.num_kv_heads, prefix.head_dim)
    allowed = (spec.num_layers, spec.num_kv_heads, spec.head_dim)
    if seen != allowed:
        raise TensorMismatch(
            f"the prefix has (layers, kv heads, head dim) {seen}, the backbone {allowed}: they must be equal"
        )


def _check_header(
    entries: list[tuple[str, dict[str, Any]]], manifest: Manifest, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Names, dtypes and shapes against the manifest, before any value is looked at."""
    described = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries}
    _check_names(set(described), set(shapes))
    for name, (dtype, shape) in described.items():
        wanted = STORED_DTYPES[manifest.prefix.dtype if name in PREFIX_TENSORS else manifest.head.dtype]
        if dtype != wanted or shape != shapes[name]:
            raise TensorMismatch(
                f"tensor {name!r} is {dtype} {list(shape)}, the manifest says {wanted} {list(shapes[name])}: "
                "write manifest and tensors together"
            )


def _check_names(seen: set[str], wanted: set[str]) -> None:
    missing, extra = sorted(wanted - seen), sorted(seen - wanted)
    if missing or extra:
        raise TensorMismatch(
            f"{TENSORS_FILE} lacks {missing or 'nothing'} and has {extra[:8] or 'nothing'} too many; "
            f"exactly {sorted(wanted)} are allowed"
        )


def _check_finite(name: str, values: NDArray[np.float32], serving_dtype: str) -> None:
    largest = LARGEST[serving_dtype]
    with np.errstate(invalid="ignore"):
        bad = ~(np.abs(values) <= largest)
    if bad.any():
        place = tuple(int(index) for index in np.argwhere(bad)[0])
        raise NonfiniteTensor(
            f"tensor {name!r} has {int(bad.sum())} values that are not finite in {serving_dtype}, the first at "
            f"{list(place)}: {values[place]}; allowed is at most {largest:g} in size"
        )


def read_card(folder: Path) -> str | None:
    """Raises MalformedBundle for one that is not UTF-8."""
    path = folder / CARD_FILE
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise MalformedBundle(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def bundle_bytes(folder: Path) -> bytes:
    """The whole tar in memory, for small bundles."""
    buffer = io.BytesIO()
    for block in tar_bundle(folder):
        buffer.write(block)
    return buffer.getvalue()
