"""Checkpoints of the original P-Tuning v2 code (github.com/THUDM/P-tuning-v2). Knows its files, no other tool's.

A checkpoint is the folder that transformers' Trainer wrote: the whole model in `pytorch_model.bin` or
`model.safetensors`, with `prefix_encoder.*` and the head among it, and a config.json. The other files beside them
(`training_args.bin`, `optimizer.pt`, ...) are pickles of arbitrary objects and are never opened. PT-Retrieval's files,
from the same repository, are read in `retrieval.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import BackboneMismatch, InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.formats import FORMATS, PLAIN
from prefixrack_adapters.importers import retrieval
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
    make_manifest,
    take,
    tokenization_for,
    unflatten_prefix,
)
from prefixrack_adapters.importers.frozen import Separated, separate
from prefixrack_adapters.importers.reparameterization import fold
from prefixrack_adapters.manifest import (
    OUTSIDE,
    Activation,
    AnyPrefix,
    DecodingSpec,
    Gather,
    HeadSpec,
    Manifest,
    PromptSpec,
)

TOOL = "THUDM/P-tuning-v2"
INDEX = ".index.json"
WEIGHT_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
)
OWN_MODULES = ("prefix_encoder.", "classifier.", "qa_outputs.")
TRAINED_POOLER = "pooler."  # DeBERTa's stands beside the backbone, not in it, and is trained
TASK_OF_CLASS = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "QuestionAnswering": "question-answering",
    "MultipleChoice": "multiple-choice",
}
POOLED_TASKS = ("text-classification", "multiple-choice")
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# the code's defaults for question answering: windows of 384 tokens that share 128
QA_WINDOW, QA_STRIDE = 384, 128


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds: its config.json, its tensors taken apart, and the task that both of them tell."""

    source: Source
    config: Mapping[str, Any]
    parts: Separated
    task: str
    architecture: str

    @property
    def own(self) -> Arrays:
        return self.parts.own

    @property
    def is_shallow(self) -> bool:
        """PT: `--prompt`, vectors in front of the input; else a prefix in every layer."""
        return "prefix_encoder.weight" in self.own

    @property
    def has_trained_pooler(self) -> bool:
        return f"{TRAINED_POOLER}dense.weight" in self.own


def read(source: Source) -> Imported:
    """A checkpoint folder, or a PT-Retrieval file, as a bundle's content.

    Raises BackboneMismatch where the frozen weights are not --backbone's, InvalidRequest where an option is needed,
    MalformedBundle or TensorMismatch where the files are not what the tool writes.
    """
    if retrieval.is_retrieval(source.folder):
        return retrieval.read(source)
    if source.tower is not None:
        raise InvalidRequest(f"--tower is {source.tower!r}, but {source.folder} holds one model: leave the option out")
    checkpoint = open_checkpoint(source)
    vectors, prefix = _prefix(checkpoint)
    layers, tensors = dense_layers(_head(checkpoint))
    labels, decoding = _answers(checkpoint, layers[-1].num_outputs)
    manifest = make_manifest(
        source,
        task=checkpoint.task,
        labels=labels,
        prefix=prefix,
        head=HeadSpec(gather=_gather(checkpoint), layers=layers),
        tokenization=_tokenization(checkpoint, prefix),
        decoding=decoding,
        tool=TOOL,
        method="pt" if checkpoint.is_shallow else "p-tuning-v2",
        settings=_settings(checkpoint),
        input_format=_input_format(checkpoint, len(labels), decoding),
    )
    return Imported(manifest, vectors | tensors, _found(checkpoint, prefix), _assumed(checkpoint, manifest))


def open_checkpoint(source: Source) -> Checkpoint:
    config = read_config(source)
    own = (*OWN_MODULES, TRAINED_POOLER) if _is_deberta(source) else OWN_MODULES
    tensors = chain.from_iterable(iter_state(path) for path in find_weights(source.folder))
    parts = separate(tensors, source, own)
    if not any(name.startswith("prefix_encoder.") for name in parts.own):
        raise MalformedBundle(
            f"{source.folder} has no `prefix_encoder` tensors: only models trained with --prefix or --prompt are "
            f"adapters; it has {sorted(parts.own)[:6]} beside the backbone"
        )
    architecture = str((config.get("architectures") or [""])[0])
    return Checkpoint(source, config, parts, _task(source, architecture, parts.own), architecture)


def find_weights(folder: Path) -> list[Path]:
    """The model's files, or the one safetensors file of a folder where only the trained tensors were kept."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return shards(folder / name) if name.endswith(INDEX) else [folder / name]
    others = sorted(folder.glob(f"*{SAFETENSORS}")) if folder.is_dir() else []
    if len(others) != 1:
        raise MalformedBundle(
            f"{folder} holds none of {', '.join(WEIGHT_FILES)}: give a checkpoint folder of {TOOL}, or PT-Retrieval's "
            "file dpr_biencoder.N"
        )
    return others


def shards(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    try:
        names = {Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise MalformedBundle(f"{index} is not an index with a `weight_map`: copy the checkpoint again") from None
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise MalformedBundle(f"{index.parent} lacks {', '.join(missing[:4])}, which {index.name} names: copy them too")
    return [index.parent / name for name in sorted(names)]


def read_config(source: Source) -> dict[str, Any]:
    """The checkpoint's config.json. Raises MalformedBundle, or BackboneMismatch where it is of another family."""
    path = source.folder / "config.json"
    if not path.is_file():
        raise MalformedBundle(f"{source.folder} has no config.json: give the whole folder that training wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedBundle(f"{path} is not JSON ({error}): copy the checkpoint again") from None
    if not isinstance(config, dict):
        raise MalformedBundle(f"{path} holds a {type(config).__name__}, an object is needed: copy the checkpoint again")
    family = config.get("model_type", source.spec.architecture)
    if family != source.spec.architecture:
        raise BackboneMismatch(
            f"{source.folder} is a {family!r} model, the backbone {source.spec.model_id!r} is "
            f"{source.spec.architecture!r}: give --backbone the model that training started from"
        )
    return config


def _is_deberta(source: Source) -> bool:
    return source.spec.architecture.startswith("deberta")


def _task(source: Source, architecture: str, own: Arrays) -> str:
    """From the class in config.json, else from the head, else from --task."""
    told = next((task for suffix, task in TASK_OF_CLASS.items() if architecture.endswith(suffix)), None)
    if told is None and any(name.startswith("qa_outputs.") for name in own):
        told = "question-answering"
    if told is None and source.task is None:
        raise InvalidRequest(
            f"{source.folder}/config.json names no class that tells the task (architectures: {architecture!r}): give "
            f"--task, one of {', '.join(TASK_OF_CLASS.values())}"
        )
    if source.task is not None and told not in (None, source.task):
        raise InvalidRequest(f"--task is {source.task!r}, but {source.folder} is a {architecture} for {told!r}")
    task = told or str(source.task)
    if task not in TASK_OF_CLASS.values():
        raise InvalidRequest(f"--task is {task!r}; {TOOL} has {', '.join(TASK_OF_CLASS.values())}")
    return task


def _prefix(checkpoint: Checkpoint) -> tuple[Arrays, AnyPrefix]:
    spec, own = checkpoint.source.spec, checkpoint.own
    if checkpoint.is_shallow:
        vectors = own["prefix_encoder.weight"]
        _check_len(checkpoint, vectors)
        return {"prompt": vectors}, PromptSpec(prefix_len=len(vectors), width=vectors.shape[1], embedding="twice")
    flat = fold(own)
    _check_len(checkpoint, flat)
    return {"prefix": unflatten_prefix(flat, spec)}, deep_prefix(spec, len(flat))


def _check_len(checkpoint: Checkpoint, vectors: NDArray[np.float32]) -> None:
    told = checkpoint.config.get("pre_seq_len", len(vectors))
    if told != len(vectors):
        raise TensorMismatch(
            f"config.json says pre_seq_len {told}, the prefix has {len(vectors)} vectors: the files are not of one "
            "checkpoint"
        )


def _head(checkpoint: Checkpoint) -> list[Dense]:
    name = "qa_outputs" if checkpoint.task == "question-answering" else "classifier"
    output = Dense(take(checkpoint.own, f"{name}.weight"), checkpoint.own.get(f"{name}.bias"))
    if checkpoint.task not in POOLED_TASKS:
        return [output]
    return [_trained_pooler(checkpoint) if _is_deberta(checkpoint.source) else _frozen_pooler(checkpoint), output]


def _trained_pooler(checkpoint: Checkpoint) -> Dense:
    """DeBERTa's ContextPooler, trained with the head."""
    activation = checkpoint.config.get("pooler_hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise MalformedBundle(f"config.json has pooler_hidden_act {activation!r}; {', '.join(ACTIVATIONS)} are known")
    own = checkpoint.own
    return Dense(take(own, f"{TRAINED_POOLER}dense.weight"), take(own, f"{TRAINED_POOLER}dense.bias"), activation)


def _frozen_pooler(checkpoint: Checkpoint) -> Dense:
    """BERT's and RoBERTa's tanh pooler. The adapter carries it: published RoBERTa weights have none, so training drew
    one at random, and where they do the next export of the backbone may lack it."""
    weight, bias = (checkpoint.parts.frozen(f"pooler.dense.{part}") for part in ("weight", "bias"))
    if weight is None or bias is None:
        raise TensorMismatch(
            f"neither {checkpoint.source.folder} nor the backbone has pooler.dense: the head reads the pooler's "
            "output, so the pooler of training is needed; give the whole model that training wrote"
        )
    return Dense(weight, bias, "tanh")


def _gather(checkpoint: Checkpoint) -> Gather:
    """Under PT, sequence classification reads the first real token, multiple choice the first prompt vector."""
    if checkpoint.task not in POOLED_TASKS:
        if checkpoint.is_shallow:
            raise MalformedBundle(f"{TOOL} has --prompt for {', '.join(POOLED_TASKS)} only, not for {checkpoint.task}")
        return "every_token"
    return "first_position" if checkpoint.is_shallow and checkpoint.task == "multiple-choice" else "first_token"


def _answers(checkpoint: Checkpoint, num_outputs: int) -> tuple[list[str], DecodingSpec]:
    source, task = checkpoint.source, checkpoint.task
    is_regression = task == "text-classification" and num_outputs == 1
    if is_regression or task in ("question-answering", "multiple-choice"):
        if source.labels:
            raise InvalidRequest(f"--labels names {len(source.labels)} labels, but this is no classifier: leave it out")
        return [], DecodingSpec(
            problem="regression" if is_regression else "single_label", no_answer=bool(source.no_answer)
        )
    labels = labels_or_ask(source, num_outputs, checkpoint.config.get("id2label"))
    if task == "token-classification":
        marks = {label.partition("-")[0] for label in labels if label != OUTSIDE}
        return labels, DecodingSpec(tagging="bioes" if marks & {"E", "S"} else "bio")
    is_multi_label = checkpoint.config.get("problem_type") == "multi_label_classification"
    return labels, DecodingSpec(problem="multi_label" if is_multi_label else "single_label")


def _tokenization(checkpoint: Checkpoint, prefix: AnyPrefix) -> Any:
    if checkpoint.task == "question-answering":
        return tokenization_for(checkpoint.source, checkpoint.task, prefix, longest=QA_WINDOW, stride=QA_STRIDE)
    return tokenization_for(checkpoint.source, checkpoint.task, prefix)


def _input_format(checkpoint: Checkpoint, num_labels: int, decoding: DecodingSpec) -> str:
    """The data set's own form where config.json names the data set; plain inputs are taken beside it."""
    form = FORMATS.get(str(checkpoint.config.get("finetuning_task")))
    is_fitting = form is not None and form.task == checkpoint.task and form.min_labels <= num_labels
    return form.name if form is not None and is_fitting and decoding.problem == "single_label" else PLAIN


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    names = ("architectures", "finetuning_task", "pre_seq_len", "prefix_projection", "prefix_hidden_size")
    return {name: checkpoint.config[name] for name in names if checkpoint.config.get(name) is not None}


def _found(checkpoint: Checkpoint, prefix: AnyPrefix) -> dict[str, str]:
    kind = "PT: prompt at the input" if checkpoint.is_shallow else "P-Tuning v2: prefix in every layer"
    folded = "prefix_encoder.trans.0.weight" in checkpoint.own
    return {
        "class": checkpoint.architecture or "not said",
        "prompt": f"{kind}, {prefix.prefix_len} vectors" + (", reparameterization folded" if folded else ""),
        "frozen tensors compared": str(checkpoint.parts.num_compared),
        "carried from the checkpoint": ", ".join(sorted(checkpoint.parts.lacking)) or "nothing",
    }


def _assumed(checkpoint: Checkpoint, manifest: Manifest) -> list[str]:
    source = checkpoint.source
    notes = []
    if not checkpoint.parts.num_compared:
        notes.append("the source holds no frozen weights, so the backbone could not be compared")
    if manifest.labels and source.labels is None:
        notes.append(f"label order from config.json: {', '.join(manifest.labels[:8])}")
    if source.max_len is None:
        notes.append("the length of training is not stored: rows may be as long as positions allow (--max-len)")
    if manifest.task == "question-answering" and source.stride is None:
        notes.append(f"windows share {manifest.tokenization.stride} tokens (--stride)")
    if manifest.task == "question-answering" and source.no_answer is None:
        notes.append("every question has an answer, as in SQuAD 1.1; for SQuAD 2.0 give --no-answer")
    if manifest.input_format != PLAIN and source.input_format is None:
        template = ", template 0" if f"{manifest.input_format}.template1" in FORMATS else ""
        notes.append(f"input format {manifest.input_format!r}{template}, by the data set's name (--input-format)")
    return notes
