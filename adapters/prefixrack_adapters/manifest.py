"""The manifest: everything about an adapter that is not a tensor. Pure pydantic; knows no torch and no files.

The format is specified in `adapters/README.md`; a field's meaning is stated there once and here only where a rule is
checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from prefixrack.errors import InvalidManifest, LabelMismatch
from prefixrack.types import Overlong, TaskName
from prefixrack.validation import first_problem
from prefixrack_adapters.formats import FORMATS, PLAIN
from prefixrack_adapters.names import AdapterName

SCHEMA_VERSION: Literal[1] = 1
MAX_PREFIX_LEN = 4096
MAX_LABELS = 10_000
MAX_EXAMPLES = 64

TensorDtype = Literal["float32", "float16", "bfloat16"]
Activation = Literal["tanh", "gelu", "relu"]
Tagging = Literal["bio", "bioes"]
Positions = Literal["after_prefix", "unmoved"]
Gather = Literal[
    "first_token",
    "last_token",
    "mean_tokens",
    "every_token",
    "first_position",
    "mean_positions",
    "every_position",
]
GATHERS_OF: Mapping[str, tuple[Gather, ...]] = {
    "text-classification": ("first_token", "last_token", "mean_tokens", "first_position", "mean_positions"),
    "multiple-choice": ("first_token", "last_token", "first_position"),
    "token-classification": ("every_token",),
    "question-answering": ("every_token", "every_position"),
    "text-embedding": ("first_token", "last_token", "mean_tokens"),
}

OUTSIDE = "O"
PREFIX_KINDS = ("deep", "soft")  # pydantic names the kind in a problem's place, the file does not


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneRef(Part):
    """The backbone that the adapter was trained on. Only `fingerprint` is compared; the rest is for people."""

    model_id: str
    architecture: str
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PrefixSpec(Part):
    """Tensor `prefix` [num_layers, 2, prefix_len, num_kv_heads, head_dim]; with `prefix_len` 0 there is none.

    `layers` names the layers that have a prefix where not all have one; the tensor then holds those only, in order.
    With `gates` there are tensors `gates.weight` [num_layers, n, hidden_size] and `gates.bias` [num_layers, n], of the
    same layers: each scales its prefix by the mean sigmoid over a row of what enters its attention, keys and values
    "shared" (n is 1) or "separate" (n is 2, the key's first).
    """

    kind: Literal["deep"] = "deep"
    prefix_len: Annotated[int, Field(ge=0, le=MAX_PREFIX_LEN)]
    num_layers: Annotated[int, Field(ge=1)]
    num_kv_heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]
    dtype: TensorDtype = "float32"
    positions: Positions = "after_prefix"
    gates: Literal["shared", "separate"] | None = None
    layers: Annotated[list[int], Field(min_length=1)] | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """How many tokens it adds to a row."""
        return 0

    def gate_shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        if self.gates is None:
            return {}
        num_layers, num_outputs = self.tensor_shape[0], 1 if self.gates == "shared" else 2
        return {"gates.weight": (num_layers, num_outputs, hidden_size), "gates.bias": (num_layers, num_outputs)}

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        num_layers = self.num_layers if self.layers is None else len(self.layers)
        return (num_layers, 2, self.prefix_len, self.num_kv_heads, self.head_dim)

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.layers is not None and (
            sorted(set(self.layers)) != self.layers or not 0 <= self.layers[0] <= self.layers[-1] < self.num_layers
        ):
            raise ValueError(f"layers is {self.layers}: rising numbers from 0 to {self.num_layers - 1} are allowed")
        return self


class PromptSpec(Part):
    """A soft prompt: tensor `prompt` [prefix_len, width], vectors before the word vectors of every row.

    `embedding` "once" puts the vectors among the word vectors, and positions, segment 0 and the embedding layer's
    normalisation are applied to all (Lester et al., PEFT); "twice" embeds the words first and then, behind the prompt,
    once more with segment 0 (the original P-Tuning v2 repository's `--prompt`).
    """

    kind: Literal["soft"] = "soft"
    prefix_len: Annotated[int, Field(ge=1, le=MAX_PREFIX_LEN)]
    width: Annotated[int, Field(ge=1)]
    dtype: TensorDtype = "float32"
    embedding: Literal["once", "twice"] = "once"

    @property
    def positions(self) -> Positions:
        """The prompt takes the first positions of its row itself."""
        return "unmoved"

    @property
    def num_prompt_tokens(self) -> int:
        return self.prefix_len

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        return (self.prefix_len, self.width)


def kind_of(prefix: Any) -> str:
    """Which of the two a prefix is to be read as; one that does not say is deep."""
    kind = prefix.get("kind", "deep") if isinstance(prefix, dict) else getattr(prefix, "kind", "deep")
    return str(kind)


AnyPrefix = Annotated[
    Annotated[PrefixSpec, Tag("deep")] | Annotated[PromptSpec, Tag("soft")],
    Discriminator(
        kind_of,
        custom_error_type="prefix_kind",
        custom_error_message=f"prefix.kind must be {' or '.join(map(repr, PREFIX_KINDS))}",
    ),
]


class DenseLayer(Part):
    """Tensors `head.<i>.weight` [num_outputs, inputs] and, with `bias`, `head.<i>.bias` [num_outputs].

    With `norm_eps` the outputs, behind the activation, are brought to mean 0 and variance 1 over the layer; a scale and
    a shift behind that belong into the next layer's weights.
    """

    num_outputs: Annotated[int, Field(ge=1)]
    activation: Activation | None = None
    bias: bool = True
    norm_eps: Annotated[float, Field(gt=0)] | None = None


class HeadSpec(Part):
    """Dense layers over the gathered hidden states; none where the states themselves are the answer (embeddings).

    `gather`: of the first or last token of a row, the mean of its tokens, or every token. Under a soft prompt
    `first_position` is the first prompt vector's state, `mean_positions` the mean of prompt and tokens, and
    `every_position` the first states of prompt and tokens together, as many as there are tokens (PEFT trained question
    answering so).
    """

    gather: Gather
    layers: Annotated[list[DenseLayer], Field(max_length=4)]
    dtype: TensorDtype = "float32"

    @property
    def num_outputs(self) -> int | None:
        """None: as many as the hidden states have."""
        return self.layers[-1].num_outputs if self.layers else None


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
    normalize: bool = False
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
    name: AdapterName
    description: str = ""
    task: TaskName
    input_format: str = PLAIN
    labels: Annotated[list[str], Field(max_length=MAX_LABELS)] = []
    backbone: BackboneRef
    prefix: AnyPrefix
    head: HeadSpec
    tokenization: TokenizationSpec
    decoding: DecodingSpec = DecodingSpec()
    example: Any = None
    examples: Annotated[list[Any], Field(max_length=MAX_EXAMPLES)] = []
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
    def _check_layers(self) -> Self:
        if not self.head.layers and self.task != "text-embedding":
            raise ValueError(f"head.layers is [], but task {self.task!r} needs 1 to 4: only text-embedding has none")
        if self.decoding.normalize and self.task != "text-embedding":
            raise ValueError(f"decoding.normalize is true, but task {self.task!r} gives no vector: text-embedding does")
        return self

    @model_validator(mode="after")
    def _check_input_format(self) -> Self:
        name = self.input_format
        if name == PLAIN:
            return self
        form = FORMATS.get(name)
        if form is None or form.task != self.task:
            fitting = [PLAIN, *(one.name for one in FORMATS.values() if one.task == self.task)]
            raise ValueError(f"input_format is {name!r}, but task {self.task!r} needs {one_of(fitting)}")
        problem = self.decoding.problem
        if form.is_single_label and problem != "single_label":
            raise ValueError(f"input_format {name!r} needs decoding.problem 'single_label', seen {problem!r}")
        if len(self.labels) < form.min_labels:
            raise LabelMismatch(f"input_format {name!r} needs {form.min_labels} labels, seen {len(self.labels)}")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        expected = self._expected_outputs()
        if self.task == "text-embedding":
            if self.labels:
                raise LabelMismatch(f"a text-embedding has no labels, seen {len(self.labels)}: leave `labels` empty")
            return self
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
        allowed = GATHERS_OF[self.task]
        if self.head.gather not in allowed:
            raise ValueError(f"head.gather is {self.head.gather!r}, but task {self.task!r} needs {one_of(allowed)}")
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
            shapes["prompt" if prefix.kind == "soft" else "prefix"] = prefix.tensor_shape
        if prefix.kind == "deep" and prefix.prefix_len:
            shapes |= prefix.gate_shapes(hidden_size)
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


def one_of(allowed: Sequence[str]) -> str:
    return " or ".join(repr(value) for value in allowed)


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
        raise InvalidManifest(f"adapter.json: {manifest_problem(error)}") from None


def manifest_problem(error: ValidationError) -> str:
    """Field, value seen and value allowed of what is wrong first with a manifest, and how much more there is."""
    problem = first_problem(error)
    where = ".".join(str(part) for part in problem.parts if part not in PREFIX_KINDS) or "manifest"
    seen = repr(problem.seen)
    shown = seen if len(seen) <= 80 else f"{seen[:77]}..."
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"field `{where}`: {problem.sentence}; seen {shown}{more}"
