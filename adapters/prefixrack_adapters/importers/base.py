"""What every importer shares: the source, its weight files, the bundle's layout. Knows no tool's file names.

Pickles are read here alone, as plain tensors (`weights_only`); a bundle never holds one.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from prefixrack.errors import InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack.types import Overlong, TaskName
from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.manifest import (
    Activation,
    AnyPrefix,
    BackboneRef,
    DecodingSpec,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
    manifest_problem,
)
from prefixrack_adapters.spec import BackboneSpec

Arrays = dict[str, NDArray[np.float32]]

TASKS = get_args(TaskName)
TOWERS = ("question", "context")
PLACEHOLDER_LABEL = re.compile(r"LABEL_\d+")  # what transformers writes where nobody named the labels
SAFETENSORS = ".safetensors"
MIN_ROOM = 4  # `TokenizationSpec.max_len` allows no less


@dataclass(frozen=True)
class Source:
    """What the caller gave: the tool's folder (or file), the backbone, and what the files may not say.

    `max_len`, `stride` and `no_answer` are None where the caller leaves them to the importer's default.
    """

    folder: Path
    spec: BackboneSpec
    backbone: Path
    task: str | None = None
    labels: list[str] | None = None
    name: str | None = None
    tower: str | None = None
    max_len: int | None = None
    stride: int | None = None
    no_answer: bool | None = None
    input_format: str | None = None


@dataclass(frozen=True)
class Imported:
    """A bundle's content, tensors in float32 and in the bundle's layout.

    `read` says what was found in the source, `assumed` what it does not say and was filled in: for people.
    """

    manifest: Manifest
    arrays: Arrays
    read: Mapping[str, str] = field(default_factory=dict)
    assumed: Sequence[str] = ()


def unflatten_prefix(flat: NDArray[np.float32], spec: BackboneSpec, num_layers: int | None = None) -> NDArray[Any]:
    """[P, 2·L·H·D] as all three tools flatten it → the bundle's [L, 2, P, H, D]: row 2l is layer l's key, 2l+1 value.

    `num_layers` where not every layer has a prefix. Raises TensorMismatch where the width is another.
    """
    layers = spec.num_layers if num_layers is None else num_layers
    width = 2 * layers * spec.num_kv_heads * spec.head_dim
    if flat.ndim != 2 or flat.shape[1] != width:
        raise TensorMismatch(
            f"the prefix has shape {list(flat.shape)}; [prefix_len, {width}] is needed for {layers} layers with "
            f"{spec.num_kv_heads} key-value heads of {spec.head_dim}: check that --backbone is the one it was made for"
        )
    by_layer = flat.reshape(flat.shape[0], layers, 2, spec.num_kv_heads, spec.head_dim)
    return np.ascontiguousarray(by_layer.transpose(1, 2, 0, 3, 4))


def deep_prefix(spec: BackboneSpec, prefix_len: int, **rules: Any) -> PrefixSpec:
    """The manifest's entry for a prefix in the backbone's own shape."""
    return PrefixSpec(
        prefix_len=prefix_len,
        num_layers=spec.num_layers,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        **rules,
    )


def read_state(path: Path) -> Arrays:
    """Every floating-point tensor of a .safetensors, .bin or .pt file, as float32. For small files.

    Raises MalformedBundle for a file that is neither sound safetensors nor a pickle of plain tensors.
    """
    return dict(iter_state(path))


def iter_state(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The same, tensor by tensor, so that a whole model passes through without lying in memory."""
    yield from _mapped(path) if path.suffix == SAFETENSORS else tensors_of(load_pickle(path), path)


def _mapped(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Through torch's side of the library: numpy has no bfloat16."""
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name)
                if tensor.is_floating_point():
                    yield name, tensor.float().numpy()
    except (SafetensorError, OSError) as error:
        raise MalformedBundle(f"{path} is not a sound safetensors file ({error}): copy it again") from None


def load_pickle(path: Path) -> Any:
    """What `torch.save` wrote, tensors and plain containers only; tensors stay mapped to the file where they can.

    Raises MalformedBundle where the file is cut off, or where opening it would call code.
    """
    import torch

    try:
        # files from before PyTorch 1.6 are no zip archives and cannot be mapped
        return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception as error:  # noqa: BLE001 - a broken pickle can raise whatever it likes
        reason = str(error).strip().partition("\n")[0][:200]
        raise MalformedBundle(
            f"{path} is not a file of plain tensors ({type(error).__name__}: {reason}). Pickles that call code are "
            "never opened, and a file that was cut off cannot be: copy it again, or save its tensors as safetensors"
        ) from None


def tensors_of(state: Any, path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The floating-point tensors of a loaded state, one by one. Raises MalformedBundle where it is no state."""
    import torch

    if not isinstance(state, Mapping):
        raise MalformedBundle(
            f"the state in {path} is of type {type(state).__name__}; a mapping from names to tensors is needed"
        )
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            yield str(name), tensor.detach().float().numpy()


def weights_file(folder: Path, *names: str) -> Path:
    """The first of `names` that is there. Raises MalformedBundle, naming what is looked for."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MalformedBundle(f"{folder} holds none of {', '.join(names)}: give the folder that the tool wrote")


def take(arrays: Mapping[str, NDArray[np.float32]], name: str) -> NDArray[np.float32]:
    """A tensor that must be there. Raises TensorMismatch."""
    if name not in arrays:
        raise TensorMismatch(f"the source has no tensor {name!r}; it has {sorted(arrays)[:12]}: was all of it copied?")
    return arrays[name]


class Dense(NamedTuple):
    """A head's layer: weight [num_outputs, num_inputs], bias [num_outputs], and what follows, as in `DenseLayer`."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: Activation | None = None
    norm_eps: float | None = None


def dense_layers(layers: Sequence[Dense]) -> tuple[list[DenseLayer], Arrays]:
    """The manifest's layers and the bundle's tensors."""
    described, arrays = [], Arrays()
    for index, (weight, bias, activation, norm_eps) in enumerate(layers):
        described.append(
            DenseLayer(num_outputs=weight.shape[0], activation=activation, bias=bias is not None, norm_eps=norm_eps)
        )
        arrays[f"head.{index}.weight"] = weight
        if bias is not None:
            arrays[f"head.{index}.bias"] = bias
    return described, arrays


def labels_or_ask(source: Source, num_outputs: int, id2label: Mapping[Any, str] | None = None) -> list[str]:
    """The names of `num_outputs` classes in output order: --labels, else the config's where those are real names.

    Raises InvalidRequest naming the option where there are none, or another number of them.
    """
    labels = source.labels or _named(id2label, num_outputs)
    if labels is None:
        raise InvalidRequest(
            f"{source.folder} has a head with {num_outputs} outputs and does not name them: give --labels with "
            f"{num_outputs} names in the order of training, e.g. --labels "
            + ",".join(f"name{index}" for index in range(min(num_outputs, 3)))
        )
    if len(labels) != num_outputs:
        raise InvalidRequest(
            f"--labels names {len(labels)} labels ({', '.join(labels[:8])}), the head has {num_outputs} outputs: "
            "give one name for each"
        )
    return labels


def _named(id2label: Mapping[Any, str] | None, num_outputs: int) -> list[str] | None:
    by_index = {int(index): str(label) for index, label in (id2label or {}).items()}
    labels = [by_index.get(index, "LABEL_0") for index in range(num_outputs)]
    return None if any(PLACEHOLDER_LABEL.fullmatch(label) for label in labels) else labels


def tokenization_for(
    source: Source, task: str, prefix: AnyPrefix, *, longest: int | None = None, stride: int = 128, **rules: Any
) -> TokenizationSpec:
    """How inputs become rows where the tool's files do not say: all the room that the positions leave.

    `longest` bounds it to what the tool trains with. Tasks with an answer for every token use windows, the others
    truncate, as the tools do; `truncated` tells the caller.
    """
    room = source.spec.room(prefix)
    if room < MIN_ROOM:
        raise TensorMismatch(
            f"a prefix of {prefix.prefix_len} leaves {room} of the backbone's {source.spec.max_positions} positions "
            f"for text, at least {MIN_ROOM} are needed: check that --backbone is the one it was made for"
        )
    if source.max_len is not None and source.max_len > room:
        raise InvalidRequest(f"--max-len is {source.max_len}; with this prefix the backbone has room for {room} tokens")
    max_len = source.max_len or min(room, longest or room)
    overlong: Overlong = "window" if task in ("token-classification", "question-answering") else "truncate"
    shared = min(stride, max_len // 2) if source.stride is None else source.stride
    return TokenizationSpec(max_len=max_len, stride=shared, overlong=overlong, **rules)


def make_manifest(
    source: Source,
    *,
    task: str,
    labels: Sequence[str],
    prefix: AnyPrefix,
    head: HeadSpec,
    tokenization: TokenizationSpec,
    decoding: DecodingSpec | None = None,
    tool: str,
    tool_version: str = "unknown",
    method: str,
    settings: Mapping[str, Any] | None = None,
    description: str = "",
    input_format: str = PLAIN,
) -> Manifest:
    """The manifest of an imported adapter. Raises LabelMismatch, or InvalidRequest where an option does not fit."""
    spec = source.spec
    provenance = Provenance(
        tool=tool,
        tool_version=tool_version,
        method=method,
        libraries={"prefixrack": version("prefixrack")},
        settings=dict(settings or {}),
    )
    try:
        return Manifest(
            name=source.name or name_of(source.folder),
            description=description,
            task=task,
            input_format=source.input_format or input_format,
            labels=list(labels),
            backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
            prefix=prefix,
            head=head,
            tokenization=tokenization,
            decoding=decoding or DecodingSpec(),
            provenance=provenance,
        )
    except ValidationError as error:
        raise InvalidRequest(
            f"{source.folder} makes no bundle: {manifest_problem(error)}: give the option that corrects it (--name, "
            "--task, --labels, --input-format)"
        ) from None


def name_of(folder: Path) -> str:
    """An adapter's name from where it lies: `runs/copa/checkpoint-18` → "copa"."""
    parts = [part for part in folder.absolute().parts if not re.fullmatch(r"checkpoint-\d+|adapter|/", part)]
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", (parts[-1] if parts else "").lower())
    return cleaned.lstrip("._-")[:63] or "imported"
