"""Multiple choice: one text, two or more choices; each (text, choice) pair is a row with one logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prefixrack.errors import InvalidInput
from prefixrack.types import ChoiceOutput, Overlong, Parameters
from prefixrack_adapters.checks import checked_fields, checked_text, type_name
from prefixrack_adapters.layout import longest_first
from prefixrack_adapters.rows import Row
from prefixrack_adapters.tasks.base import Logits, Prepared, Task, softmax

MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class Choices:
    text: str
    choices: tuple[str, ...]


class MultipleChoice(Task[Choices, Prepared]):
    name: ClassVar[str] = "multiple-choice"
    parameters: ClassVar[frozenset[str]] = frozenset()
    overlong_choices: ClassVar[tuple[Overlong, ...]] = ("error", "truncate")

    def parse(self, value: object) -> Choices:
        fields = checked_fields(value, ["text", "choices"])
        choices = fields["choices"]
        if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_CHOICES:
            seen = f"{len(choices)} entries" if isinstance(choices, list) else type_name(choices)
            raise InvalidInput(f"choices has {seen}; a list of 2 to {MAX_CHOICES} strings is needed")
        text = checked_text(fields["text"], "text")
        return Choices(text, tuple(checked_text(choice, f"choices[{i}]") for i, choice in enumerate(choices)))

    def encode(self, inputs: Sequence[Choices]) -> Sequence[tuple[list[int], list[list[int]]]]:
        texts = [text for value in inputs for text in (value.text, *value.choices)]
        encoded = iter(self.tokenizer.encode_ids(texts))
        return [(next(encoded), [next(encoded) for _ in value.choices]) for value in inputs]

    def build(self, value: Choices, encoded: tuple[list[int], list[list[int]]], overlong: Overlong) -> Prepared:
        text, choices = encoded
        room = self.max_tokens - self.layout.num_pair
        longest = max(len(choice) for choice in choices)
        is_overlong = len(text) + longest > room
        if is_overlong and overlong == "error":
            raise self.too_long(len(text) + longest + self.layout.num_pair, self.max_tokens)
        rows = tuple(self._row(text, choice, room) for choice in choices)
        return Prepared(rows, truncated=is_overlong)

    def _row(self, text: list[int], choice: list[int], room: int) -> Row:
        text_len, choice_len = longest_first(len(text), len(choice), room)
        segments = self.manifest.tokenization.segments
        return self.layout.pair_row(text[:text_len], choice[:choice_len], self.first_position, segments)

    def finish(self, prepared: Prepared, logits: Sequence[Logits], parameters: Parameters) -> ChoiceOutput:
        values = np.array([row[0] for row in logits])
        scores = softmax(values)
        return ChoiceOutput(
            choice=int(scores.argmax()),
            scores=scores.tolist(),
            truncated=prepared.truncated,
            logits=values.tolist() if parameters.logits else None,
        )

    def plain_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        choices = {"type": "array", "items": text, "minItems": 2, "maxItems": MAX_CHOICES}
        return {
            "type": "object",
            "properties": {"text": text, "choices": choices},
            "required": ["text", "choices"],
            "additionalProperties": False,
        }

    def default_example(self) -> object:
        return {"text": "It rained all night, so", "choices": ["the street was wet.", "the street was dry."]}
