"""SwissArmyTransformer's prefixes for GLM (2021): its `PTuningV2Mixin`, with or without a classification head.

A checkpoint folder has `latest`, the name of the folder beside it with `mp_rank_00_model_states.pt`: a state whose
`module` has `mixins.NAME.prefix.L` [2, heads, prefix_len, head_dim] for every layer L, the head's
`mixins.OTHER.layers.I.*` (its layers joined by ReLU, read from token 0) and the frozen transformer. The script that
trained it chose the two names: `ptuning` and `classification_head`, say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.importers.base import (
    SAFETENSORS,
    Arrays,
    Dense,
    Imported,
    Source,
    deep_prefix,
    dense_layers,
    iter_state,
    labels_or_ask,
    load_pickle,
    make_manifest,
    tensors_of,
    tokenization_for,
)
from prefixrack_adapters.importers.frozen import Separated, separate
from prefixrack_adapters.manifest import DecodingSpec, HeadSpec, PrefixSpec
from prefixrack_adapters.weights import RANK_FILES, RANK_POINTER, rank_files

TOOL = "THUDM/SwissArmyTransformer"
PREFIX_NAME = re.compile(r"mixins\.(?P<mixin>[^.]+)\.prefix\.(?P<layer>\d+)")
HEAD_NAME = re.compile(r"mixins\.(?P<mixin>[^.]+)\.layers\.(?P<index>\d+)\.(?P<part>weight|bias)")
TRAINED_FILE = "trained_params.safetensors"


def read(source: Source) -> Imported:
    """A checkpoint as a bundle's content. Raises InvalidRequest, MalformedBundle, TensorMismatch, BackboneMismatch."""
    path = _state_file(source.folder)
    parts = separate(_tensors(path), source, _own_mixins(path))
    prefix, values = _prefix(source, parts.own)
    layers, arrays = dense_layers(_head(parts.own))
    task = _task(source, bool(layers))
    num_outputs = layers[-1].num_outputs if layers else 0
    is_number = num_outputs == 1
    labels = labels_or_ask(source, num_outputs) if num_outputs > 1 else _no_labels(source)
    manifest = make_manifest(
        source,
        task=task,
        labels=labels,
        prefix=prefix,
        head=HeadSpec(gather="first_token", layers=layers),
        tokenization=tokenization_for(source, task, prefix, segments=False),
        decoding=DecodingSpec(problem="regression" if is_number else "single_label"),
        tool=TOOL,
        method="p-tuning-v2",
        settings={"file": path.name},
    )
    return Imported(manifest, {"prefix": values, **arrays}, _found(path, prefix, parts), _assumed(parts, is_number))


def _state_file(folder: Path) -> Path:
    """The one file with the tensors. Raises MalformedBundle where there is none, or one for each of several ranks."""
    if folder.is_file():
        return folder
    ranks = rank_files(folder)
    if len(ranks) > 1:
        raise MalformedBundle(
            f"{ranks[0].parent} holds the parts of {len(ranks)} model-parallel ranks; one is needed: merge them first "
            "with the tool's own merge_model"
        )
    found = ranks or [path for path in (folder / TRAINED_FILE,) if path.is_file()]
    if not found:
        raise MalformedBundle(
            f"{folder} holds neither {RANK_POINTER!r} with {RANK_FILES} nor {TRAINED_FILE}: give the folder "
            "that the tool saved to"
        )
    return found[0]


def _own_mixins(path: Path) -> tuple[str, ...]:
    """How the names of the prefix's and the head's tensors begin. Raises MalformedBundle where there are several.

    Any other mixin is left to the comparison with the backbone: what that has not, cannot be run.
    """
    names = [name for name, _ in _tensors(path)]
    own: list[str] = []
    for kind, pattern in (("prefix", PREFIX_NAME), ("head", HEAD_NAME)):
        mixins = sorted({f"mixins.{match['mixin']}." for name in names if (match := pattern.fullmatch(name))})
        if len(mixins) > 1:
            raise MalformedBundle(
                f"{path} has more than one {kind}: {', '.join(mixins)}; one is needed: save a checkpoint of one task"
            )
        own += mixins
    return tuple(own)


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    if path.suffix == SAFETENSORS:
        yield from iter_state(path)
        return
    state: Any = load_pickle(path)
    yield from tensors_of(state.get("module", state) if isinstance(state, dict) else state, path)


def _prefix(source: Source, own: Arrays) -> tuple[PrefixSpec, NDArray[np.float32]]:
    """The manifest's entry and the bundle's [L, 2, P, H, D], from [2, H, P, D] per layer."""
    by_layer = {int(match["layer"]): values for name, values in own.items() if (match := PREFIX_NAME.fullmatch(name))}
    spec = source.spec
    if sorted(by_layer) != list(range(spec.num_layers)):
        raise TensorMismatch(
            f"{source.folder} has prefixes for layers {sorted(by_layer)}, the backbone has {spec.num_layers} layers: "
            "give a checkpoint trained with PTuningV2Mixin, and its own --backbone"
        )
    stacked = np.stack([by_layer[layer] for layer in range(spec.num_layers)])
    if stacked.ndim != 5 or (stacked.shape[1], stacked.shape[2], stacked.shape[4]) != (
        2,
        spec.num_kv_heads,
        spec.head_dim,
    ):
        raise TensorMismatch(
            f"a layer's prefix has shape {list(stacked.shape[1:])}; [2, {spec.num_kv_heads}, prefix_len, "
            f"{spec.head_dim}] is needed: check that --backbone is the one it was trained on"
        )
    values = np.ascontiguousarray(stacked.transpose(0, 1, 3, 2, 4))
    return deep_prefix(spec, values.shape[2], positions="unmoved"), values


def _head(own: Arrays) -> list[Dense]:
    parts: dict[int, dict[str, NDArray[np.float32]]] = {}
    for name, values in own.items():
        if match := HEAD_NAME.fullmatch(name):
            parts.setdefault(int(match["index"]), {})[match["part"]] = values
    last = max(parts, default=0)
    return [
        Dense(parts[index]["weight"], parts[index].get("bias"), None if index == last else "relu")
        for index in sorted(parts)
    ]


def _task(source: Source, has_head: bool) -> str:
    task = "text-classification" if has_head else "text-embedding"
    if source.task not in (None, task):
        raise InvalidRequest(
            f"--task is {source.task!r}, but {source.folder} has {'a' if has_head else 'no'} classification head: "
            f"that makes it {task!r}"
        )
    return task


def _no_labels(source: Source) -> list[str]:
    if source.labels:
        raise InvalidRequest("--labels was given, but the head has one output or there is none: leave it out")
    return []


def _found(path: Path, prefix: PrefixSpec, parts: Separated) -> dict[str, str]:
    return {
        "file": path.name,
        "prompt": f"prefix in every layer, {prefix.prefix_len} vectors, positions not moved",
        "frozen tensors compared": str(parts.num_compared),
    }


def _assumed(parts: Separated, is_number: bool) -> list[str]:
    notes = [] if parts.num_compared else ["the source holds no frozen weights, so the backbone could not be compared"]
    if is_number:
        notes.append("the head's one output is answered as a number; the tool reads its sigmoid as a probability")
    return notes
