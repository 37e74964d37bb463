"""Heads of transformers' own task classes, as PEFT and AdapterHub train them. Knows no tool's file names.

Which layers stand between the hidden states and the logits depends on the family: RoBERTa's classifier has a dense
layer of its own, BERT's reads the base model's pooler, a decoder's the last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InvalidRequest, TensorMismatch, UnsupportedBackbone
from prefixrack_adapters.importers.base import Dense, Source
from prefixrack_adapters.importers.frozen import Separated
from prefixrack_adapters.manifest import Activation, Gather
from prefixrack_adapters.spec import read_config

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
DECODERS = ("glm", "glm4", "gpt2", "llama", "qwen2", "qwen3")
# first parts of the names of tensors that are the head's and not the base model's
HEAD_MODULES = ("classifier.", "head.", "pre_classifier.", "score.", "qa_outputs.", "sequence_summary.", "pooler.")
POOLED_TASKS = ("text-classification", "multiple-choice")


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """A dense layer by the name of its module, and of the one that normalises its outputs.

    What is not among the trained tensors comes from the base's files.
    """

    module: str
    activation: Activation | None = None
    norm: str | None = None


POOLER = HeadLayer("pooler.dense", "tanh")
CONTEXT_POOLER = HeadLayer("pooler.dense", "gelu")
OUTPUT = HeadLayer("classifier")
OWN_DENSE = HeadLayer("classifier.dense", "tanh")
OWN_OUTPUT = HeadLayer("classifier.out_proj")
PRE_CLASSIFIER = HeadLayer("pre_classifier", "relu")
NORMALISED = HeadLayer("head.dense", "gelu", "head.norm")  # ModernBERT's, in front of every task's output
# where a family's config may name another activation
ACTIVATION_FIELDS: Mapping[HeadLayer, str] = {CONTEXT_POOLER: "pooler_hidden_act", NORMALISED: "classifier_activation"}

SEQUENCE_HEADS: Mapping[str, tuple[HeadLayer, ...]] = {
    "albert": (HeadLayer("pooler", "tanh"), OUTPUT),
    "bert": (POOLER, OUTPUT),
    "deberta": (CONTEXT_POOLER, OUTPUT),
    "deberta-v2": (CONTEXT_POOLER, OUTPUT),
    "distilbert": (PRE_CLASSIFIER, OUTPUT),
    "electra": (HeadLayer("classifier.dense", "gelu"), OWN_OUTPUT),
    "modernbert": (NORMALISED, OUTPUT),
    "roberta": (OWN_DENSE, OWN_OUTPUT),
    "xlm-roberta": (OWN_DENSE, OWN_OUTPUT),
    **dict.fromkeys(DECODERS, (HeadLayer("score"),)),
}
CHOICE_HEADS: Mapping[str, tuple[HeadLayer, ...]] = {
    "albert": (HeadLayer("pooler", "tanh"), OUTPUT),
    "bert": (POOLER, OUTPUT),
    "deberta-v2": (CONTEXT_POOLER, OUTPUT),
    "distilbert": (PRE_CLASSIFIER, OUTPUT),
    "electra": (HeadLayer("sequence_summary.summary", "gelu"), OUTPUT),
    "roberta": (POOLER, OUTPUT),
    "xlm-roberta": (POOLER, OUTPUT),
}
TOKEN_HEADS: Mapping[str, tuple[HeadLayer, ...]] = {
    **{architecture: (OUTPUT,) for architecture in SEQUENCE_HEADS if architecture not in DECODERS},
    **dict.fromkeys(DECODERS, (HeadLayer("score"),)),
    "gpt2": (OUTPUT,),
    "modernbert": (NORMALISED, OUTPUT),
}
ANSWER_HEADS: Mapping[str, tuple[HeadLayer, ...]] = {
    **{architecture: (HeadLayer("qa_outputs"),) for architecture in SEQUENCE_HEADS},
    "modernbert": (NORMALISED, OUTPUT),
}

HEADS_OF_TASK: Mapping[str, Mapping[str, tuple[HeadLayer, ...]]] = {
    "text-classification": SEQUENCE_HEADS,
    "multiple-choice": CHOICE_HEADS,
    "token-classification": TOKEN_HEADS,
    "question-answering": ANSWER_HEADS,
}


def head_layers(source: Source, task: str) -> tuple[HeadLayer, ...]:
    """Raises UnsupportedBackbone, listing the families whose head for this task is made of dense layers."""
    heads = HEADS_OF_TASK[task]
    architecture = source.spec.architecture
    if architecture not in heads:
        raise UnsupportedBackbone(
            f"the head of a {architecture!r} model for {task!r} cannot be imported; families whose can: "
            f"{', '.join(sorted(heads))}"
        )
    return tuple(_configured(layer, source) for layer in heads[architecture])


def _configured(layer: HeadLayer, source: Source) -> HeadLayer:
    """With the activation that the backbone's config names. Raises UnsupportedBackbone for one that bundles lack."""
    field = ACTIVATION_FIELDS.get(layer)
    if field is None:
        return layer
    activation = read_config(source.backbone).get(field, layer.activation)
    if activation not in ACTIVATIONS:
        raise UnsupportedBackbone(
            f"{source.spec.model_id} has {field} {activation!r}; {', '.join(ACTIVATIONS)} are supported"
        )
    return replace(layer, activation=activation)


def read_head(layers: tuple[HeadLayer, ...], parts: Separated, source: Source) -> list[Dense]:
    """Weights of each layer, trained ones first, else the base's. Raises TensorMismatch where there are none."""
    head = [_dense(layer, parts, source) for layer in layers]
    for index, layer in enumerate(layers):
        if layer.norm is not None:
            head[index : index + 2] = _normalised(layer.norm, head[index], head[index + 1], parts, source)
    return head


def _dense(layer: HeadLayer, parts: Separated, source: Source) -> Dense:
    weight, bias = _weights(layer.module, parts, source)
    return Dense(weight, bias, layer.activation)


def _normalised(module: str, layer: Dense, behind: Dense, parts: Separated, source: Source) -> tuple[Dense, Dense]:
    """Outputs of `layer` are normalised; scale and shift behind that become part of the layer that reads them."""
    scale, shift = _weights(module, parts, source)
    bias = behind.bias
    if shift is not None:
        bias = behind.weight @ shift + (0 if bias is None else bias)
    eps = read_config(source.backbone).get("norm_eps", 1e-5)
    return layer._replace(norm_eps=eps), behind._replace(weight=behind.weight * scale, bias=bias)


def _weights(module: str, parts: Separated, source: Source) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    names = f"{module}.weight", f"{module}.bias"
    weight, bias = (parts.own[name] if name in parts.own else parts.frozen(name) for name in names)
    if weight is None:
        held = sorted(name for name in parts.own if name.startswith(HEAD_MODULES))
        raise TensorMismatch(
            f"neither {source.folder} nor the backbone {source.spec.model_id!r} has {names[0]!r}, which a "
            f"{source.spec.architecture!r} head for this task has; the source has {held or 'no head'}: a part that was "
            "drawn at random and not saved is lost; check --task, and give --backbone the model with the part in it"
        )
    return weight, bias


def gather_of(source: Source, task: str, is_soft: bool = False) -> Gather:
    """Which states the head reads. In front of a soft prompt the tool's models do not know which tokens are real.

    So sequence heads of encoders read the first prompt vector's state, and answers are looked for at the same index
    that they have among the tokens.
    """
    if task == "question-answering":
        return "every_position" if is_soft else "every_token"
    if task == "token-classification":
        return "every_token"
    if source.spec.architecture in DECODERS:
        return "last_token"
    if task == "text-classification" and read_config(source.backbone).get("classifier_pooling") == "mean":
        return "mean_positions" if is_soft else "mean_tokens"
    return "first_position" if is_soft and task in POOLED_TASKS else "first_token"


def check_same_task(source: Source, told: str | None, allowed: tuple[str, ...]) -> str:
    """The task that the source tells, else --task. Raises InvalidRequest where they differ or there is neither."""
    if told is None and source.task is None:
        raise InvalidRequest(f"{source.folder} does not tell its task: give --task, one of {', '.join(allowed)}")
    if source.task is not None and told not in (None, source.task):
        raise InvalidRequest(f"--task is {source.task!r}, but {source.folder} is for {told!r}: leave the option out")
    task = told or str(source.task)
    if task not in allowed:
        raise InvalidRequest(f"--task is {task!r}; {', '.join(allowed)} are allowed here")
    return task
