"""Adapters that PEFT wrote (huggingface/peft, 0.4 to 0.21). Knows its files, no other tool's.

A folder has adapter_config.json and adapter_model.safetensors or .bin. Reparameterizations are saved folded, so one
tensor, `prompt_embeddings`, is the whole prefix or prompt; the head's tensors stand beside it. Neither label names nor
lengths are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import BackboneMismatch, InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.architectures import ARCHITECTURES
from prefixrack_adapters.importers.answers import answers
from prefixrack_adapters.importers.base import (
    MIN_ROOM,
    Arrays,
    Imported,
    Source,
    deep_prefix,
    dense_layers,
    iter_state,
    make_manifest,
    take,
    tokenization_for,
    unflatten_prefix,
    weights_file,
)
from prefixrack_adapters.importers.frozen import POOLER, Separated, separate
from prefixrack_adapters.importers.stock_heads import (
    HEAD_MODULES,
    check_same_task,
    gather_of,
    head_layers,
    read_head,
)
from prefixrack_adapters.manifest import AnyPrefix, HeadSpec, PromptSpec
from prefixrack_adapters.rotary import causal_windows
from prefixrack_adapters.spec import read_config as read_backbone_config

TOOL = "huggingface/peft"
CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PROMPT = "prompt_embeddings"
WINDOWED = ("qwen2", "qwen3")  # decoders whose config may give layers a window
DEEP, SOFT = ("PREFIX_TUNING",), ("PROMPT_TUNING", "P_TUNING")
TASK_OF_TYPE = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "text-embedding",
}
# the windows of the tool's own question answering examples
QA_WINDOW, QA_STRIDE = 384, 128
# What PEFT wraps modules in that it trains beside the prompt: the name of the wrapper, then of the adapter, which
# saving strips. The weights from before training may stand beside them.
WRAPPED = re.compile(r"\.modules_to_save(\.(?!weight$|bias$|dense\.|out_proj\.|summary\.)[^.]+)?(?=\.)")
UNTRAINED = ".original_module."
ENCODER = "prompt_encoder."  # what `prompt_embeddings` was computed with: saved where a module to save is named alike


@dataclass(frozen=True)
class PeftAdapter:
    """What a folder holds: its config, its tensors by the names of the model's own modules, and its task."""

    source: Source
    config: Mapping[str, Any]
    parts: Separated
    task: str

    @property
    def method(self) -> str:
        return str(self.config["peft_type"])

    @property
    def is_soft(self) -> bool:
        return self.method in SOFT


def read(source: Source) -> Imported:
    """A folder that `save_pretrained` wrote, as a bundle's content.

    Raises InvalidRequest where an option is needed or the method is another one, BackboneMismatch where the config or
    a frozen tensor is not --backbone's, MalformedBundle or TensorMismatch where the files are not what the tool writes.
    """
    adapter = open_adapter(source)
    vectors, prefix = _prefix(adapter)
    layers, tensors = dense_layers(_head(adapter))
    labels, decoding = answers(source, adapter.task, layers[-1].num_outputs if layers else 0)
    manifest = make_manifest(
        source,
        task=adapter.task,
        labels=labels,
        prefix=prefix,
        head=HeadSpec(gather=gather_of(source, adapter.task, adapter.is_soft), layers=layers),
        tokenization=_tokenization(adapter, prefix),
        decoding=decoding,
        tool=TOOL,
        tool_version=str(adapter.config.get("peft_version") or "unknown"),
        method=adapter.method,
        settings=_settings(adapter),
    )
    return Imported(manifest, vectors | tensors, _found(adapter, prefix), _assumed(adapter))


def open_adapter(source: Source) -> PeftAdapter:
    if source.tower is not None:
        raise InvalidRequest(f"--tower is {source.tower!r}, but {source.folder} holds one model: leave the option out")
    config = read_config(source.folder)
    check_method(source, config)
    state = own_names(dict(iter_state(weights_file(source.folder, *WEIGHT_FILES))), source)
    parts = separate(state.items(), source, (PROMPT, *HEAD_MODULES))
    return PeftAdapter(source, config, parts, _task(source, config, parts))


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises MalformedBundle."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise MalformedBundle(f"{folder} has no {CONFIG_FILE}: give the folder that the tool wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MalformedBundle(f"{path} is not JSON ({error}): copy the adapter again") from None
    if not isinstance(config, dict):
        raise MalformedBundle(f"{path} holds a {type(config).__name__}, an object is needed: copy the adapter again")
    return config


def check_method(source: Source, config: Mapping[str, Any]) -> None:
    """Raises InvalidRequest naming the method where it is not one of a prefix or a prompt for one stack of layers."""
    method = config.get("peft_type")
    if method not in (*DEEP, *SOFT):
        raise InvalidRequest(
            f"{source.folder} has peft_type {method!r}; {', '.join((*DEEP, *SOFT))} can be imported, other methods "
            "change the backbone or the prompt from row to row"
        )
    if config.get("num_transformer_submodules", 1) not in (None, 1) or config.get("task_type") == "SEQ_2_SEQ_LM":
        raise InvalidRequest(
            f"{source.folder} was trained on an encoder-decoder model (task_type {config.get('task_type')!r}, "
            f"num_transformer_submodules {config.get('num_transformer_submodules')!r}); only encoders and decoders "
            "can be served"
        )
    if config.get("task_type") == "CAUSAL_LM":
        raise InvalidRequest(
            f"{source.folder} has task_type 'CAUSAL_LM': it writes text and has no head; adapters of "
            f"{', '.join(TASK_OF_TYPE)} can be imported"
        )


def own_names(state: Arrays, source: Source) -> Arrays:
    """Tensors by the names that the model's own modules have. Raises TensorMismatch where two of one name differ."""
    renamed: Arrays = {}
    for name, values in state.items():
        if UNTRAINED in name or name.startswith(ENCODER):
            continue
        own = _own_name(name, ARCHITECTURES[source.spec.architecture].model_prefix)
        if own in renamed and not np.array_equal(renamed[own], values):
            raise TensorMismatch(f"{source.folder} holds {own!r} twice, with other values: save the adapter again")
        renamed[own] = values
    return renamed


def _own_name(name: str, model_prefix: str) -> str:
    own = WRAPPED.sub("", name).removeprefix("base_model.").removeprefix("model.")
    base = own.removeprefix(model_prefix)
    return base if base.startswith(POOLER) else own  # a pooler that was trained along is the head's


def _task(source: Source, config: Mapping[str, Any], parts: Separated) -> str:
    """From the config, else from the head, else from --task."""
    told = TASK_OF_TYPE.get(str(config.get("task_type")))
    if told is None and config.get("task_type") is not None:
        raise InvalidRequest(
            f"{source.folder} has task_type {config['task_type']!r}; {', '.join(TASK_OF_TYPE)} can be imported"
        )
    if told is None and any(name.startswith("qa_outputs.") for name in parts.own):
        told = "question-answering"
    return check_same_task(source, told, tuple(TASK_OF_TYPE.values()))


def _prefix(adapter: PeftAdapter) -> tuple[Arrays, AnyPrefix]:
    spec, vectors = adapter.source.spec, take(adapter.parts.own, PROMPT)
    _check_prompt(adapter, vectors)
    if adapter.is_soft:
        if vectors.shape[1] != spec.embedding_size:
            raise TensorMismatch(
                f"the prompt's vectors have {vectors.shape[1]} values, the backbone's word vectors "
                f"{spec.embedding_size}: check that --backbone is the one it was made for"
            )
        return {"prompt": vectors}, PromptSpec(prefix_len=len(vectors), width=vectors.shape[1], embedding="once")
    return {"prefix": unflatten_prefix(vectors, spec)}, deep_prefix(spec, len(vectors))


def _check_prompt(adapter: PeftAdapter, vectors: NDArray[np.float32]) -> None:
    """The config's own words about the model and the prompt, where it has any."""
    config, spec = adapter.config, adapter.source.spec
    told = config.get("num_virtual_tokens")
    if vectors.ndim != 2 or told not in (None, len(vectors)):
        raise TensorMismatch(
            f"{CONFIG_FILE} says num_virtual_tokens {told}, {PROMPT} has shape {list(vectors.shape)}: the files are "
            "not of one adapter"
        )
    heads = None if adapter.is_soft else spec.num_kv_heads
    width = spec.embedding_size if adapter.is_soft else spec.num_kv_heads * spec.head_dim
    wanted = {"num_layers": spec.num_layers, "num_attention_heads": heads, "token_dim": width}
    for name, value in wanted.items():
        seen = config.get(name)
        if value is not None and seen not in (None, value):
            raise BackboneMismatch(
                f"{CONFIG_FILE} says {name} {seen}, the backbone {spec.model_id!r} has {value}: give --backbone the "
                f"model that training started from ({config.get('base_model_name_or_path') or 'the config names none'})"
            )


def _head(adapter: PeftAdapter) -> list[Any]:
    source = adapter.source
    if adapter.task != "text-embedding":
        return read_head(head_layers(source, adapter.task), adapter.parts, source)
    if adapter.is_soft:
        raise InvalidRequest(
            f"{source.folder} is a {adapter.method} adapter for FEATURE_EXTRACTION: its outputs begin with the states "
            "of the prompt, and which of them were pooled is not stored; only PREFIX_TUNING can be imported as "
            "text-embedding"
        )
    return []


def _tokenization(adapter: PeftAdapter, prefix: AnyPrefix) -> Any:
    """PEFT passes segment ids on to classifiers, but not to models of question answering or feature extraction."""
    source, task = adapter.source, adapter.task
    longest = _longest(adapter, prefix)
    if task == "question-answering":
        window = min(QA_WINDOW, longest or QA_WINDOW)
        return tokenization_for(source, task, prefix, longest=window, stride=QA_STRIDE, segments=False)
    return tokenization_for(source, task, prefix, longest=longest, segments=task != "text-embedding")


def _longest(adapter: PeftAdapter, prefix: AnyPrefix) -> int | None:
    """The longest row whose tokens all see the whole prefix; None where there is no such limit.

    To PEFT a prefix is an earlier part of the row, so that layers with a window lose sight of it in longer rows. Here
    it never is: only rows within the window mean the same. Raises InvalidRequest where --max-len is more.
    """
    source = adapter.source
    if adapter.is_soft or source.spec.architecture not in WINDOWED:
        return None
    windows = [window for window in causal_windows(read_backbone_config(source.backbone)) if window is not None]
    if not windows:
        return None
    longest = min(windows) - prefix.prefix_len
    if max(source.max_len or 0, MIN_ROOM) > longest:
        raise InvalidRequest(
            f"layers of {source.spec.model_id!r} see {min(windows)} positions, {prefix.prefix_len} of which the prefix "
            f"takes in {TOOL}: rows of {source.max_len or MIN_ROOM} tokens would lose sight of it; give a --max-len of "
            f"at most {longest}, at least {MIN_ROOM} is needed"
        )
    return longest


def _settings(adapter: PeftAdapter) -> dict[str, Any]:
    names = ("task_type", "num_virtual_tokens", "prefix_projection", "encoder_reparameterization_type")
    return {name: adapter.config[name] for name in names if adapter.config.get(name) is not None}


def _found(adapter: PeftAdapter, prefix: AnyPrefix) -> dict[str, str]:
    kind = "prompt at the input" if adapter.is_soft else "prefix in every layer"
    return {
        "trained on": str(adapter.config.get("base_model_name_or_path") or "not said"),
        "prompt": f"{adapter.method}: {kind}, {prefix.prefix_len} vectors",
        "frozen tensors compared": str(adapter.parts.num_compared),
    }


def _assumed(adapter: PeftAdapter) -> list[str]:
    source, task = adapter.source, adapter.task
    notes = ["the source holds no frozen weights, so the backbone could be compared by its shapes alone"]
    if adapter.parts.num_compared:
        notes = []
    if source.max_len is None:
        notes.append("the length of training is not stored: rows may be as long as positions allow (--max-len)")
    if task == "question-answering" and source.no_answer is None:
        notes.append("every question has an answer, as in SQuAD 1.1; for SQuAD 2.0 give --no-answer")
    if task == "text-embedding":
        notes.append(f"how vectors were pooled is not stored: {gather_of(source, task)} (head.gather in adapter.json)")
    return notes
