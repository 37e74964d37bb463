"""Prefix tuning that AdapterHub wrote (adapter-hub/adapters, and adapter-transformers before). Knows its files only.

A folder has adapter_config.json and pytorch_adapter.bin, and for the head head_config.json and pytorch_model_head.bin
(or safetensors of the like names). Every layer repeats the tensors of the pool that all of them share. Positions are
not moved by the prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import BackboneMismatch, InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.importers.adapterhub_head import TASKS, Head, read_head
from prefixrack_adapters.importers.answers import answers
from prefixrack_adapters.importers.base import (
    Arrays,
    Imported,
    Source,
    deep_prefix,
    dense_layers,
    make_manifest,
    read_state,
    take,
    tokenization_for,
    unflatten_prefix,
    weights_file,
)
from prefixrack_adapters.importers.stock_heads import DECODERS, gather_of
from prefixrack_adapters.manifest import HeadSpec, PrefixSpec
from prefixrack_adapters.spec import read_config as read_backbone_config

TOOL = "adapter-hub/adapters"
METHOD = "prefix_tuning"
CONFIG_FILE, HEAD_CONFIG_FILE = "adapter_config.json", "head_config.json"
WEIGHT_FILES = ("adapter.safetensors", "pytorch_adapter.bin")
# `….prefix_tuning[.pool].prefix_tunings.NAME.LOCATION.TENSOR`
POOLED = re.compile(r"prefix_tunings\.(?P<adapter>.+)\.(?P<place>[^.]+)\.(?P<tensor>wte\.weight|control_trans.*)$")
GATE = re.compile(r"^(?P<layer>.+?)\.[^\d]*prefix_tuning\.prefix_gates\.(?P<adapter>.+)\.(?P<tensor>weight|bias)$")
OWN_PLACES = ("self", "self_prefix")  # else it is one of an encoder-decoder's two other attentions


@dataclass(frozen=True)
class Prefix:
    """`flat` [prefix_len, 2·l·H·D] for the l modules that have a prefix, their numbers, and their gates by module."""

    flat: NDArray[np.float32]
    modules: Sequence[int]
    gate_weights: NDArray[np.float32] | None
    gate_biases: NDArray[np.float32] | None
    was_folded: bool


def read(source: Source) -> Imported:
    """A folder that `save_adapter` wrote, with its head, as a bundle's content.

    Raises InvalidRequest where an option is needed or the method is another one, BackboneMismatch where the config is
    of another model, MalformedBundle or TensorMismatch where the files are not what the tool writes.
    """
    if source.tower is not None:
        raise InvalidRequest(f"--tower is {source.tower!r}, but {source.folder} holds one model: leave the option out")
    document = read_document(source.folder / CONFIG_FILE)
    config = method_config(source, document)
    found = read_prefix(source, config)
    head = _head(source)
    spec, tensors = _to_layers(source, found)
    layers, head_tensors = dense_layers(head.layers)
    labels, decoding = answers(
        source, head.task, layers[-1].num_outputs if layers else 0, head.id2label, head.is_multi_label
    )
    manifest = make_manifest(
        source,
        task=head.task,
        labels=labels,
        prefix=spec,
        head=HeadSpec(gather=head.gather, layers=layers),
        tokenization=tokenization_for(source, head.task, spec),
        decoding=decoding,
        tool=TOOL,
        tool_version=str(document.get("version") or "unknown").removeprefix("adapters."),
        method=METHOD,
        settings={name: config[name] for name in ("leave_out", "use_gating", "non_linearity") if config.get(name)},
    )
    return Imported(manifest, tensors | head_tensors, _found(document, found, head), _assumed(source, head))


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object. Raises MalformedBundle."""
    if not path.is_file():
        raise MalformedBundle(f"{path.parent} has no {path.name}: give the folder that the tool wrote")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedBundle(f"{path} is not JSON ({error}): copy the adapter again") from None
    if not isinstance(document, dict):
        raise MalformedBundle(f"{path} holds a {type(document).__name__}, an object is needed: copy the adapter again")
    return document


def method_config(source: Source, document: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own part of adapter_config.json. Raises InvalidRequest, or BackboneMismatch for another model."""
    config = document.get("config")
    if not isinstance(config, dict) or config.get("architecture") != METHOD:
        raise InvalidRequest(
            f"{source.folder} has {_method_name(config)}; only {METHOD} alone can be imported: other methods change "
            "the backbone itself"
        )
    spec = source.spec
    for name, value in (("model_type", spec.architecture), ("hidden_size", spec.hidden_size)):
        if document.get(name) not in (None, value):
            raise BackboneMismatch(
                f"{CONFIG_FILE} says {name} {document[name]!r}, the backbone {spec.model_id!r} has {value!r}: give "
                f"--backbone the model that training started from ({document.get('model_name') or 'no name is given'})"
            )
    return config


def _method_name(config: Any) -> str:
    if not isinstance(config, dict):
        return f"config {config!r}"
    parts = config.get("configs")
    if isinstance(parts, list):
        names = [str(part.get("architecture")) for part in parts if isinstance(part, dict)]
        return f"architecture {config.get('architecture')!r} of {', '.join(names)}"
    return f"architecture {config.get('architecture')!r}"


def read_prefix(source: Source, config: Mapping[str, Any]) -> Prefix:
    """The prefix as trained, reparameterization folded. What the config says of `flat` is not asked: ejecting an
    adapter folds its tensors and leaves the config as it was."""
    pooled, gates = _sort(read_state(weights_file(source.folder, *WEIGHT_FILES)), source)
    left_out = {int(one) for one in config.get("leave_out") or ()}
    modules = [module for module in range(num_modules(source)) if module not in left_out]
    is_folded = "control_trans" in pooled
    flat = _shape_flat(source, pooled["control_trans"], modules, config) if is_folded else _fold(pooled, config)
    weights, biases = _gates(source, gates, modules, config)
    return Prefix(flat, modules, weights, biases, was_folded=not is_folded)


def num_modules(source: Source) -> int:
    """Attention modules, which is what the tool counts as layers: ALBERT's serve several layers each."""
    if source.spec.architecture != "albert":
        return source.spec.num_layers
    return int(read_backbone_config(source.backbone).get("num_hidden_groups", 1))


def _sort(state: Arrays, source: Source) -> tuple[Arrays, dict[str, Arrays]]:
    """The pool's tensors, each once, and the gates by module. Raises where there are others, or copies that differ."""
    pooled: Arrays = {}
    gates: dict[str, Arrays] = {}
    places, others = set(), []
    for name, values in state.items():
        if match := POOLED.search(name):
            places.add(match["place"])
            tensor = match["tensor"]
            if not np.array_equal(pooled.setdefault(tensor, values), values) and match["place"] in OWN_PLACES:
                raise TensorMismatch(f"{source.folder} holds several {tensor!r} that differ: save the adapter again")
        elif match := GATE.search(name):
            gates.setdefault(match["layer"], {})[match["tensor"]] = values
        else:
            others.append(name)
    if others or not pooled:
        raise TensorMismatch(
            f"{source.folder} holds {sorted(others)[:4] or 'no tensors'} besides {sorted(pooled) or 'no prefix'}: "
            f"only {METHOD} alone can be imported"
        )
    if not places <= set(OWN_PLACES):
        raise InvalidRequest(
            f"{source.folder} has prefixes for {', '.join(sorted(places))}: encoder-decoder models cannot be served"
        )
    return pooled, gates


def _shape_flat(
    source: Source, values: NDArray[np.float32], modules: Sequence[int], config: Mapping[str, Any]
) -> NDArray[np.float32]:
    """One dimension → [prefix_len, 2·l·H·D]."""
    width = 2 * len(modules) * source.spec.num_kv_heads * source.spec.head_dim
    told = config.get("prefix_length")
    if values.size != width * (told or values.size // max(width, 1)) or not values.size:
        raise TensorMismatch(
            f"the prefix has {values.size} values; with prefix_length {told} and {len(modules)} layers the backbone "
            f"{source.spec.model_id!r} needs {told} times {width}: give --backbone the model that training started from"
        )
    return values.reshape(-1, width)


def _fold(pooled: Arrays, config: Mapping[str, Any]) -> NDArray[np.float32]:
    """Embedding → Linear → non-linearity → Linear, computed once, in float64."""
    import torch
    from transformers.activations import get_activation

    name = str(config.get("non_linearity") or "tanh").lower()
    try:
        activation = torch.nn.functional.leaky_relu if name == "leakyrelu" else get_activation(name)
    except KeyError:
        raise MalformedBundle(f"{CONFIG_FILE} has non_linearity {name!r}, which transformers does not know") from None
    embedding = torch.from_numpy(take(pooled, "wte.weight")).double()
    first, second = (
        [torch.from_numpy(take(pooled, f"control_trans.{index}.{part}")).double() for part in ("weight", "bias")]
        for index in (0, 2)
    )
    told = config.get("prefix_length")
    if told not in (None, len(embedding)):
        raise TensorMismatch(
            f"{CONFIG_FILE} says prefix_length {told}, wte.weight has {len(embedding)} vectors: the files are not of "
            "one adapter"
        )
    with torch.no_grad():
        hidden = activation(torch.nn.functional.linear(embedding, *first))
        flat: NDArray[np.float32] = torch.nn.functional.linear(hidden, *second).float().numpy()
    return flat


def _gates(
    source: Source, gates: Mapping[str, Arrays], modules: Sequence[int], config: Mapping[str, Any]
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Weights [l, n, hidden_size] and biases [l, n] of the modules that have a prefix, in order."""
    if not gates and not config.get("use_gating"):
        return None, None
    if len(gates) != len(modules):
        raise TensorMismatch(
            f"{source.folder} has gates of {len(gates)} layers, {len(modules)} have a prefix (use_gating is "
            f"{config.get('use_gating')}, leave_out {config.get('leave_out')}): save the adapter again"
        )
    in_order = [gates[layer] for layer in sorted(gates, key=_numbers)]
    return (
        np.stack([take(gate, "weight") for gate in in_order]),
        np.stack([take(gate, "bias") for gate in in_order]),
    )


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _to_layers(source: Source, found: Prefix) -> tuple[PrefixSpec, Arrays]:
    """From modules to layers: those that share a module get the same prefix."""
    spec, total = source.spec, num_modules(source)
    by_module = unflatten_prefix(found.flat, spec, len(found.modules))
    module_of = [layer * total // spec.num_layers for layer in range(spec.num_layers)]
    layers = [layer for layer in range(spec.num_layers) if module_of[layer] in found.modules]
    picks = [list(found.modules).index(module_of[layer]) for layer in layers]
    arrays: Arrays = {"prefix": np.ascontiguousarray(by_module[picks])}
    gates = None
    if found.gate_weights is not None and found.gate_biases is not None:
        gates = "shared" if found.gate_weights.shape[1] == 1 else "separate"
        arrays |= {"gates.weight": found.gate_weights[picks], "gates.bias": found.gate_biases[picks]}
    described = deep_prefix(
        spec,
        len(found.flat),
        positions="unmoved",
        layers=None if len(layers) == spec.num_layers else layers,
        gates=gates,
    )
    return described, arrays


def _head(source: Source) -> Head:
    """The saved head; without one the adapter is an encoder of texts, where --task says so."""
    if (source.folder / HEAD_CONFIG_FILE).is_file():
        return read_head(source, read_document(source.folder / HEAD_CONFIG_FILE))
    if source.task == "text-embedding":
        return Head("text-embedding", gather_of(source, "text-embedding"), [])
    raise MalformedBundle(
        f"{source.folder} has no {HEAD_CONFIG_FILE}: save the head with `save_adapter(..., with_head=True)` or "
        f"`save_head` into the folder; an adapter without a head can be imported with --task text-embedding (tasks of "
        f"heads: {', '.join(TASKS)})"
    )


def _found(document: Mapping[str, Any], found: Prefix, head: Head) -> dict[str, str]:
    notes = [", reparameterization folded" if found.was_folded else ""]
    notes.append("" if found.gate_weights is None else ", gated")
    return {
        "trained on": str(document.get("model_name") or "not said"),
        "prompt": f"prefix tuning in {len(found.modules)} layers, {len(found.flat)} vectors" + "".join(notes),
        "head": head.kind,
    }


def _assumed(source: Source, head: Head) -> list[str]:
    notes = ["the source holds no frozen weights, so the backbone could be compared by its shapes alone"]
    if source.max_len is None:
        notes.append("the length of training is not stored: rows may be as long as positions allow (--max-len)")
    if head.task == "question-answering" and source.no_answer is None:
        notes.append("every question has an answer, as in SQuAD 1.1; for SQuAD 2.0 give --no-answer")
    if head.task == "text-embedding":
        notes.append(f"how vectors were pooled is not stored: {head.gather} (head.gather in adapter.json)")
    if source.spec.architecture in DECODERS:
        notes.append("every token sees the whole prefix, as the tool computes it for padded batches or eager attention")
    return notes
