"""An adapter as tensors: which ones go in and come out, by task, and how inputs and outputs become them. Knows no HTTP.

Where a task's input is no text (multiple choice, and some input formats), its one tensor holds the JSON that the native
route takes, and so does its output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prefixrack.errors import InvalidRequest, MalformedJson
from prefixrack_adapters.formats import PLAIN
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.compat.open_inference.tensors import OutputTensor
from prefixrack_server.envelope import parse_json

Output = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """`width` None: one value an input; otherwise as many."""

    name: str
    datatype: str
    read: Callable[[Output], Any]
    width: int | None = None

    def tensor(self, outputs: Sequence[Output]) -> OutputTensor:
        shape = [len(outputs)] if self.width is None else [len(outputs), self.width]
        return OutputTensor(self.name, self.datatype, shape, [self.read(output) for output in outputs])

    def metadata(self) -> dict[str, Any]:
        shape = [-1] if self.width is None else [-1, self.width]
        return {"name": self.name, "datatype": self.datatype, "shape": shape}


@dataclass(frozen=True, slots=True)
class Interface:
    required: tuple[str, ...]
    optional: tuple[str, ...]
    outputs: tuple[TensorSpec, ...]

    def input_metadata(self) -> list[dict[str, Any]]:
        required: list[dict[str, Any]] = [_input_metadata(name) for name in self.required]
        return required + [_input_metadata(name) | {"parameters": {"optional": True}} for name in self.optional]

    def inputs(self, columns: Mapping[str, Sequence[str]]) -> list[Any]:
        """As the native route takes them. Raises InvalidRequest for a tensor that is missing or not known."""
        allowed = (*self.required, *self.optional)
        unknown = [name for name in columns if name not in allowed]
        missing = [name for name in self.required if name not in columns]
        if unknown or missing:
            what = f"no input tensor {missing[0]!a}" if missing else f"an unknown input tensor {unknown[0][:40]!a}"
            raise InvalidRequest(f"the request has {what}: this adapter takes {', '.join(allowed)}")
        if len({len(column) for column in columns.values()}) > 1:
            sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise InvalidRequest(f"the input tensors differ in length ({sizes}): one element an input is needed")
        if self.required == (JSON_INPUT,):
            return [_from_json(text, index) for index, text in enumerate(columns[JSON_INPUT])]
        if tuple(columns) == ("text",):
            return list(columns["text"])
        rows = zip(*columns.values(), strict=True)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def chosen(self, names: Sequence[str] | None) -> tuple[TensorSpec, ...]:
        """Outputs by name, in the order asked; None: all.

        Raises InvalidRequest for a name that there is not, or that is there twice: an answer has no more than is known.
        """
        if names is None:
            return self.outputs
        known = {spec.name: spec for spec in self.outputs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InvalidRequest(
                f"there is no output tensor {unknown[0][:40]!a}: this adapter gives {', '.join(known)}"
            )
        if len(set(names)) < len(names):
            raise InvalidRequest("an output tensor is asked for twice: name each once")
        return tuple(known[name] for name in names)


JSON_INPUT: Final = "input"
LOGITS: Final = "logits"
INPUTS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "text-classification": (("text",), ("text_pair",)),
    "token-classification": (("text",), ()),
    "question-answering": (("question", "context"), ()),
    "text-embedding": (("text",), ("title",)),
}


def _input_metadata(name: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [-1]}


def interface_of(manifest: Manifest, hidden_size: int) -> Interface:
    if manifest.input_format != PLAIN or manifest.task not in INPUTS:
        return Interface((JSON_INPUT,), (), (TensorSpec("output", "BYTES", _to_json),))
    required, optional = INPUTS[manifest.task]
    return Interface(required, optional, _outputs(manifest, hidden_size))


def _outputs(manifest: Manifest, hidden_size: int) -> tuple[TensorSpec, ...]:
    match manifest.task:
        case "text-classification":
            return _classification(manifest)
        case "token-classification":
            return (TensorSpec("entities", "BYTES", lambda output: _to_json(output["spans"])),)
        case "question-answering":
            return (
                TensorSpec("answer", "BYTES", lambda output: _answer(output)["text"]),
                TensorSpec("score", "FP32", lambda output: _answer(output)["score"]),
                TensorSpec("start", "INT64", lambda output: _answer(output)["start"]),
                TensorSpec("end", "INT64", lambda output: _answer(output)["end"]),
            )
        case _:
            size = manifest.head.num_outputs or hidden_size
            return (TensorSpec("embedding", "FP32", lambda output: output["embedding"], size),)


def _classification(manifest: Manifest) -> tuple[TensorSpec, ...]:
    logits = TensorSpec(LOGITS, "FP32", lambda output: output["logits"], manifest.head.num_outputs)
    match manifest.decoding.problem:
        case "regression":
            return (TensorSpec("value", "FP32", lambda output: output["value"]), logits)
        case "multi_label":
            labels = TensorSpec("labels", "BYTES", lambda output: _to_json(output["labels"]))
            return (labels, _scores(manifest), logits)
        case "single_label":
            label = TensorSpec("label", "BYTES", lambda output: output["label"])
            score = TensorSpec("score", "FP32", lambda output: output["score"])
            return (label, score, _scores(manifest), logits)


def _scores(manifest: Manifest) -> TensorSpec:
    """One for each label, in the manifest's order."""

    def read(output: Output) -> list[float]:
        by_label = {entry["label"]: entry["score"] for entry in output["scores"]}
        return [by_label[label] for label in manifest.labels]

    return TensorSpec("scores", "FP32", read, len(manifest.labels))


def _answer(output: Output) -> Mapping[str, Any]:
    """The empty text where there is none."""
    return output["answer"] or {"text": "", "start": 0, "end": 0, "score": output["no_answer_score"]}


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _from_json(text: str, index: int) -> Any:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except MalformedJson:
        raise InvalidRequest(
            f"element {index} of tensor {JSON_INPUT!a} is not valid JSON: send an input as the native route takes it"
        ) from None
