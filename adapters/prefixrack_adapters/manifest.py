"""The manifest: everything about an adapter that is not a tensor. Pure pydantic; knows no torch and no files.

The format is specified in `adapters/README.md`; a field's meaning is stated there once and here only where a rule is
checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefixrack.errors import InvalidManifest, LabelMismatch
from prefixrack.types import Overlong, TaskName

SCHEMA_VERSION: Literal[1] = 1
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
MAX_PREFIX_LEN = 4096
MAX_LABELS = 10_000

TensorDtype = Literal["float32", "float16", "bfloat16"]
Activation = Literal["tanh", "gelu", "relu"]
Tagging = Literal["bio", "bioes"]

OUTSIDE = "O"


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneRef(Part):
    """The backbone that the adapter was trained on. Only `fingerprint` is compared; the rest is for people."""

    model_id: str
    architecture: str
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PrefixSpec(Part):
    """Tensor `prefix` [num_layers, 2, prefix_len, num_kv_heads, head_dim]; with `prefix_len` 0 there is none."""

    kind: Literal["deep"] = "deep"
    prefix_len: Annotated[int, Field(ge=0, le=MAX_PREFIX_LEN)]
    num_layers: Annotated[int, Field(ge=1)]
    num_kv_heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]
    dtype: TensorDtype = "float32"
    positions: Literal["after_prefix", "unmoved"] = "after_prefix"


class DenseLayer(Part):
    """Tensors `head.<i>.weight` [num_outputs, inputs] and, with `bias`, `head.<i>.bias` [num_outputs]."""

    num_outputs: Annotated[int, Field(ge=1)]
    activation: Activation | None = None
    bias: bool = True


class HeadSpec(Part):
    """Dense layers over the gathered hidden states: of the first token of a row, or of every token."""

    gather: Literal["first_token", "every_token"]
    layers: Annotated[list[DenseLayer], Field(min_length=1, max_length=4)]
    dtype: TensorDtype = "float32"

    @property
    def num_outputs(self) -> int:
        return self.layers[-1].num_outputs


class TokenizationSpec(Part):
    """How inputs become rows. `max_len` and `stride` count tokens, special tokens included in `max_len`.

    `segments` False gives every token segment 0, as tools that drop `token_type_ids` trained.
    """

    max_len: Annotated[int, Field(ge=4)]
    stride: Annotated[int, Field(ge=0)] = 128
    overlong: Overlong = "error"
    segments: bool = True


class DecodingSpec(Part):
    """Defaults of the task's decoding; a request may override those that are request parameters."""

    problem: Literal["single_label", "multi_label", "regression"] = "single_label"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    tagging: Tagging = "bio"
    n_best: Annotated[int, Field(ge=1, le=100)] = 20
    max_answer_len: Annotated[int, Field(ge=1)] = 30
    no_answer: bool = False
    null_threshold: float = 0.0


class Metric(Part):
    """One measured score, as the trainer or evaluator saw it: the uploader's claim, not the server's."""

    name: str
    value: float
    dataset: str
    split: str = "dev"
    num_examples: int | None = None


class Provenance(Part):
    tool: str
    tool_version: str
    method: str
    seed: int | None = None
    libraries: dict[str, str] = {}
    settings: dict[str, Any] = {}


class Manifest(Part):
    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    task: TaskName
    input_format: str = "plain"
    labels: Annotated[list[str], Field(max_length=MAX_LABELS)] = []
    backbone: BackboneRef
    prefix: PrefixSpec
    head: HeadSpec
    tokenization: TokenizationSpec
    decoding: DecodingSpec = DecodingSpec()
    example: Any = None
    metrics: list[Metric] = []
    provenance: Provenance
    licence: str | None = None

    @model_validator(mode="after")
    def _check_problem(self) -> Self:
        problem = self.decoding.problem
        if problem != "single_label" and self.task != "text-classification":
            raise ValueError(
                f"decoding.problem is {problem!r}, but task {self.task!r} has 'single_label' only: "
                "the others are of text-classification"
            )
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        expected = self._expected_outputs()
        if self.head.num_outputs != expected:
            raise LabelMismatch(
                f"the head has {self.head.num_outputs} outputs, but task {self.task!r} with {len(self.labels)} labels "
                f"needs {expected}: make `labels` and the last layer of `head` agree"
            )
        if len(set(self.labels)) != len(self.labels):
            raise LabelMismatch("the same label stands twice in `labels`: each output needs a name of its own")
        return self

    @model_validator(mode="after")
    def _check_gather(self) -> Self:
        wanted = "every_token" if self.task in ("token-classification", "question-answering") else "first_token"
        if self.head.gather != wanted:
            raise ValueError(f"head.gather is {self.head.gather!r}, but task {self.task!r} needs {wanted!r}")
        return self

    @model_validator(mode="after")
    def _check_tags(self) -> Self:
        if self.task == "token-classification":
            check_tags(self.labels, self.decoding.tagging)
        return self

    def _expected_outputs(self) -> int:
        if self.task == "question-answering":
            return 2
        is_scalar = self.task == "multiple-choice" or self.decoding.problem == "regression"
        return 1 if is_scalar else len(self.labels)

    def tensor_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that `adapter.safetensors` must hold, and none besides."""
        prefix, shapes = self.prefix, dict[str, tuple[int, ...]]()
        if prefix.prefix_len:
            shapes["prefix"] = (prefix.num_layers, 2, prefix.prefix_len, prefix.num_kv_heads, prefix.head_dim)
        width = hidden_size
        for index, layer in enumerate(self.head.layers):
            shapes[f"head.{index}.weight"] = (layer.num_outputs, width)
            if layer.bias:
                shapes[f"head.{index}.bias"] = (layer.num_outputs,)
            width = layer.num_outputs
        return shapes

    def to_bytes(self) -> bytes:
        """The exact bytes of `adapter.json`: deterministic, so that equal adapters have equal digests."""
        content = self.model_dump(mode="json")
        return (json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def check_tags(labels: Sequence[str], tagging: Tagging) -> None:
    """Spans cannot be read from other labels. Raises LabelMismatch, naming the first that is no tag."""
    marks = ("B", "I", "E", "S") if tagging == "bioes" else ("B", "I")
    for label in labels:
        mark, _, kind = label.partition("-")
        if label != OUTSIDE and not (mark in marks and kind):
            allowed = ", ".join(f"{one}-x" for one in marks)
            raise LabelMismatch(
                f"label {label!r} is no tag of the scheme {tagging!r}: {OUTSIDE!r} and {allowed} are allowed; "
                "rename the label, or set `decoding.tagging` to the scheme that the labels follow"
            )


def parse_manifest(content: bytes) -> Manifest:
    """Read `adapter.json`. Raises InvalidManifest or LabelMismatch, naming field, value seen and value allowed."""
    try:
        document = json.loads(content.decode())
        # Python also reads NaN, Infinity and lone surrogates, which no answer could carry on as JSON.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(
            f"adapter.json is not JSON in UTF-8 ({error}): write it with `prefixrack train`"
        ) from None
    if not isinstance(document, dict):
        raise InvalidManifest(f"adapter.json holds a {type(document).__name__}, an object is needed")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        raise InvalidManifest(f"adapter.json: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "manifest"
    seen = repr(problem.get("input"))
    shown = seen if len(seen) <= 80 else f"{seen[:77]}..."
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"field `{where}`: {problem['msg']}; seen {shown}{more}"
