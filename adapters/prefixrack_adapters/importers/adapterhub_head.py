"""AdapterHub's heads: flexible ones, made of `layers` and an activation, and those of transformers' own classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixrack.errors import InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.importers.base import Arrays, Dense, Source, read_state, take, weights_file
from prefixrack_adapters.importers.frozen import Separated, separate
from prefixrack_adapters.importers.stock_heads import (
    ACTIVATIONS,
    DECODERS,
    HEAD_MODULES,
    POOLED_TASKS,
    HeadLayer,
    check_same_task,
    gather_of,
    head_layers,
)
from prefixrack_adapters.importers.stock_heads import read_head as read_stock_head
from prefixrack_adapters.manifest import Activation, Gather

WEIGHT_FILES = ("model_head.safetensors", "pytorch_model_head.bin")
FLEXIBLE = re.compile(r"^heads\.(?P<head>.+)\.(?P<index>\d+)\.(?P<tensor>weight|bias)$")
TASK_OF_HEAD = {
    "classification": "text-classification",
    "multilabel_classification": "text-classification",
    "multiple_choice": "multiple-choice",
    "question_answering": "question-answering",
    "tagging": "token-classification",
}
TASK_OF_CLASS = {
    "SequenceClassification": "text-classification",
    "MultipleChoice": "multiple-choice",
    "QuestionAnswering": "question-answering",
    "TokenClassification": "token-classification",
}
TASKS = tuple(dict.fromkeys(TASK_OF_HEAD.values()))
# families whose base model hands a pooled output on to flexible heads (`use_pooler`)
POOLERS: Mapping[str, HeadLayer] = {
    "albert": HeadLayer("pooler", "tanh"),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), HeadLayer("pooler.dense", "tanh")),
}


@dataclass(frozen=True)
class Head:
    """A head as it stands in a bundle: its task, what it reads, its layers, and its label names where it has any."""

    task: str
    gather: Gather
    layers: Sequence[Dense]
    id2label: Mapping[Any, str] | None = None
    is_multi_label: bool = False
    kind: str = "none"


def read_head(source: Source, document: Mapping[str, Any]) -> Head:
    """What head_config.json and the head's tensors say. Raises InvalidRequest for a head of another kind."""
    state = read_state(weights_file(source.folder, *WEIGHT_FILES))
    config = document.get("config")
    if config is None:
        return _static(source, document, state)
    if not isinstance(config, dict):
        raise MalformedBundle(f"head_config.json has config {config!r}: an object or null (static head) is needed")
    return _flexible(source, config, state)


def _static(source: Source, document: Mapping[str, Any], state: Arrays) -> Head:
    """The head of a transformers class: its layers follow from the class."""
    name = str(document.get("model_class"))
    told = next((task for suffix, task in TASK_OF_CLASS.items() if name.endswith(f"For{suffix}")), None)
    if told is None:
        raise InvalidRequest(f"the head of {name!r} cannot be imported; heads of {', '.join(TASK_OF_CLASS)} can")
    if source.spec.architecture == "deberta":
        raise InvalidRequest(
            f"the head of {name!r} cannot be imported: the tool gives such a model biases drawn at random and does not "
            "save them; a flexible head (DebertaAdapterModel) can be"
        )
    task = check_same_task(source, told, TASKS)
    parts = separate(state.items(), source, HEAD_MODULES)
    layers = read_stock_head(head_layers(source, task), parts, source)
    return Head(task, gather_of(source, task), layers, _id2label(document), kind=name)


def _flexible(source: Source, config: Mapping[str, Any], state: Arrays) -> Head:
    kind = str(config.get("head_type"))
    if kind not in TASK_OF_HEAD:
        raise InvalidRequest(f"a head of type {kind!r} cannot be imported; {', '.join(TASK_OF_HEAD)} can")
    task = check_same_task(source, TASK_OF_HEAD[kind], TASKS)
    layers = _linear_layers(source, config, state)
    if config.get("use_pooler") and task in POOLED_TASKS and source.spec.architecture not in DECODERS:
        layers = [_pooler(source), *layers]
    is_multi_label = kind == "multilabel_classification"
    return Head(task, gather_of(source, task), layers, _id2label(config), is_multi_label, kind)


def _linear_layers(source: Source, config: Mapping[str, Any], state: Arrays) -> list[Dense]:
    """Dropout stands between the layers and counts in their names, so the numbers have gaps."""
    found: dict[int, Arrays] = {}
    for name, values in state.items():
        match = FLEXIBLE.match(name)
        if match is None:
            raise TensorMismatch(f"{source.folder} has a head tensor {name!r}, which a flexible head has not")
        found.setdefault(int(match["index"]), {})[match["tensor"]] = values
    if len(found) != config.get("layers", len(found)) or not found:
        raise TensorMismatch(
            f"head_config.json says {config.get('layers')} layers, the head's tensors are of {len(found)}: the files "
            "are not of one head"
        )
    last = max(found)
    return [
        Dense(take(found[index], "weight"), found[index].get("bias"), None if index == last else _activation(config))
        for index in sorted(found)
    ]


def _activation(config: Mapping[str, Any]) -> Activation | None:
    name = config.get("activation_function")
    if name is None:
        return None
    known = next((one for one in ACTIVATIONS if one == str(name).lower()), None)
    if known is None:
        raise InvalidRequest(f"activation_function {name!r} of the head is not supported; {', '.join(ACTIVATIONS)} are")
    return known


def _pooler(source: Source) -> Dense:
    """The base's own, frozen. Raises InvalidRequest for families without one."""
    pooler = POOLERS.get(source.spec.architecture)
    if pooler is None:
        raise InvalidRequest(
            f"a head with use_pooler cannot be imported for {source.spec.architecture!r}: only "
            f"{', '.join(POOLERS)} have a pooler in the base model"
        )
    parts: Separated = separate((), source, HEAD_MODULES)
    (layer,) = read_stock_head((pooler,), parts, source)
    return layer


def _id2label(config: Mapping[str, Any]) -> dict[int, str] | None:
    label2id = config.get("label2id")
    return {int(index): str(label) for label, index in label2id.items()} if isinstance(label2id, dict) else None
