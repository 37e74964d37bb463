"""What every task does: inputs → rows, logits → outputs. Pure functions over ids, offsets and numpy; no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InputFault, InputTooLong, InvalidRequest
from prefixrack.types import Output, Overlong, Parameters
from prefixrack_adapters.formats import FORMATS
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer

Logits = NDArray[np.float32]
ALWAYS_ALLOWED = frozenset({"overlong", "logits"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input, ready for the engine: its rows, and what `finish` needs to turn their logits into an answer."""

    rows: tuple[Row, ...]
    truncated: bool

    @property
    def num_tokens(self) -> int:
        return sum(len(row) for row in self.rows)


P = TypeVar("P", bound=Prepared)
X = TypeVar("X")


class Task(ABC, Generic[X, P]):
    """One adapter's task on one backbone. Cheap to build, immutable, safe to share between threads.

    X is the checked form of an input, P what is kept of it until the logits arrive.
    """

    name: ClassVar[str]
    parameters: ClassVar[frozenset[str]]
    overlong_choices: ClassVar[tuple[Overlong, ...]]

    def __init__(self, manifest: Manifest, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> None:
        self.manifest = manifest
        self.format = FORMATS.get(manifest.input_format)  # None: "plain"
        self.tokenizer = tokenizer
        self.layout = tokenizer.layout
        self.first_position = spec.first_position(manifest.prefix.prefix_len, manifest.prefix.positions)
        self.max_tokens = min(manifest.tokenization.max_len, spec.room(manifest.prefix))

    def prepare_many(self, inputs: Sequence[object], parameters: Parameters) -> list[P | InputFault]:
        """Rows of each input, all tokenised in one call. A faulty input gives its fault in its place.

        Raises InvalidRequest for parameters that would change nothing.
        """
        self.check_parameters(parameters)
        parsed = [self._parse_or_fault(value) for value in inputs]
        sound = [value for value in parsed if not isinstance(value, InputFault)]
        built = iter(self._build_many(sound, parameters) if sound else ())
        return [value if isinstance(value, InputFault) else next(built) for value in parsed]

    def check_parameters(self, parameters: Parameters) -> None:
        allowed = self.allowed_parameters() | ALWAYS_ALLOWED
        unknown = sorted(parameters.model_fields_set - allowed)
        if unknown:
            raise InvalidRequest(
                f"parameter {unknown[0]!r} means nothing to this adapter of task {self.name!r}; allowed: "
                f"{', '.join(sorted(allowed))}"
            )
        if parameters.overlong is not None and parameters.overlong not in self.overlong_choices:
            raise InvalidRequest(
                f"overlong {parameters.overlong!r} is not possible for task {self.name!r}; allowed: "
                f"{', '.join(self.overlong_choices)}"
            )

    def allowed_parameters(self) -> frozenset[str]:
        """Those of the task's parameters that change an answer of this adapter."""
        return self.parameters

    def _parse_or_fault(self, value: object) -> X | InputFault:
        try:
            return self.parse(value if self.format is None else self.format.plain(value))
        except InputFault as fault:
            return fault

    def _build_many(self, inputs: Sequence[X], parameters: Parameters) -> list[P | InputFault]:
        tokens = self.encode(inputs)
        overlong = parameters.overlong or self.manifest.tokenization.overlong
        built: list[P | InputFault] = []
        for value, encoded in zip(inputs, tokens, strict=True):
            try:
                built.append(self.build(value, encoded, overlong))
            except InputFault as fault:
                built.append(fault)
        return built

    @abstractmethod
    def parse(self, value: object) -> X:
        """Check the shape of one plain input, as it came over the wire or as its format made it. Raises InputFault."""

    @abstractmethod
    def encode(self, inputs: Sequence[X]) -> Sequence[Any]:
        """Tokens of many inputs in as few tokenizer calls as possible."""

    @abstractmethod
    def build(self, value: X, encoded: Any, overlong: Overlong) -> P:
        """Rows of one input. Raises InputTooLong where `overlong` is "error"."""

    @abstractmethod
    def finish(self, prepared: P, logits: Sequence[Logits], parameters: Parameters) -> Output:
        """The answer to one input, from the logits of its rows in order."""

    def input_schema(self) -> dict[str, Any]:
        """JSON schema of one input: in the adapter's format, or plain."""
        plain = self.plain_schema()
        return plain if self.format is None else {"anyOf": [self.format.schema(), plain]}

    @abstractmethod
    def plain_schema(self) -> dict[str, Any]: ...

    @abstractmethod
    def default_example(self) -> object: ...

    def example(self) -> object:
        """An input to try: the manifest's, else the format's, else a default one."""
        if self.manifest.example is not None:
            return self.manifest.example
        return self.default_example() if self.format is None else dict(self.format.example)

    def too_long(self, num_tokens: int, allowed: int) -> InputTooLong:
        choices = [choice for choice in self.overlong_choices if choice != "error"]
        hint = " or ".join(f'"overlong": "{choice}"' for choice in choices)
        return InputTooLong(
            f"the input has {num_tokens} tokens, special tokens included; this adapter takes {allowed}: shorten it"
            + (f" or set {hint}" if hint else "")
        )


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Over the last axis, in float64. The reductions themselves: for one row, the methods around them take as long."""
    powers = np.exp(logits.astype(np.float64) - np.maximum.reduce(logits, axis=-1, keepdims=True))
    result: NDArray[np.float64] = powers / np.add.reduce(powers, axis=-1, keepdims=True)
    return result


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    # through tanh: exp would overflow for logits far below zero
    result: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(logits.astype(np.float64) / 2))
    return result
