"""Text embedding: one vector for a text, which may have a title before it.

As in the original P-Tuning v2 repository's retrieval part (THUDM/P-tuning-v2, `PT-Retrieval/`): title and text are a
pair of which only the text is cut. Which state is the vector is the head's `gather`, whether it has length 1
`decoding.normalize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InputTooLong, InvalidInput
from prefixrack.types import EmbeddingOutput, Overlong, Parameters
from prefixrack_adapters.checks import checked_fields, checked_text, type_name
from prefixrack_adapters.tasks.base import Logits, Prepared, Task


@dataclass(frozen=True, slots=True)
class TitledText:
    title: str | None
    text: str


class TextEmbedding(Task[TitledText, Prepared]):
    name: ClassVar[str] = "text-embedding"
    parameters: ClassVar[frozenset[str]] = frozenset()
    # The mean of windows' vectors is no vector that the adapter was trained to give.
    overlong_choices: ClassVar[tuple[Overlong, ...]] = ("error", "truncate")

    def parse(self, value: object) -> TitledText:
        if isinstance(value, str):
            return TitledText(None, checked_text(value, "the text"))
        if not isinstance(value, dict):
            raise InvalidInput(
                f"the input is {type_name(value)}; a string or an object with text, title (optional) is needed"
            )
        fields = checked_fields(value, ["text"], ["title"])
        title = fields.get("title")
        return TitledText(None if title is None else checked_text(title, "title"), checked_text(fields["text"], "text"))

    def encode(self, inputs: Sequence[TitledText]) -> Sequence[tuple[list[int] | None, list[int]]]:
        texts = [text for value in inputs for text in (value.title, value.text) if text is not None]
        encoded = iter(self.tokenizer.encode_ids(texts))
        return [(None if value.title is None else next(encoded), next(encoded)) for value in inputs]

    def build(self, value: TitledText, encoded: tuple[list[int] | None, list[int]], overlong: Overlong) -> Prepared:
        title, text = encoded
        num_around = self.layout.num_single if title is None else self.layout.num_pair + len(title)
        room = self.max_tokens - num_around
        is_overlong = len(text) > room
        if is_overlong and overlong == "error":
            raise self.too_long(len(text) + num_around, self.max_tokens)
        if room < 1 and is_overlong:
            raise InputTooLong(
                f"the title has {len(title or ())} tokens and leaves none of {self.max_tokens} for the text: shorten it"
            )
        kept = text[:room] if is_overlong else text
        if title is None:
            row = self.layout.single_row(kept, self.first_position)
        else:
            row = self.layout.pair_row(title, kept, self.first_position, self.manifest.tokenization.segments)
        return Prepared((row,), truncated=is_overlong)

    def finish(self, prepared: Prepared, logits: Sequence[Logits], parameters: Parameters) -> EmbeddingOutput:
        (vector,) = logits
        embedding = unit_length(vector) if self.manifest.decoding.normalize else vector
        return EmbeddingOutput(
            embedding=embedding.tolist(),
            truncated=prepared.truncated,
            logits=vector.tolist() if parameters.logits else None,
        )

    def plain_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        titled = {
            "type": "object",
            "properties": {"text": text, "title": text},
            "required": ["text"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, titled]}

    def default_example(self) -> object:
        return "An example text."


def unit_length(vector: NDArray[np.float32]) -> NDArray[Any]:
    """The vector over its Euclidean length, in float64; one of zeros stays as it is."""
    exact = vector.astype(np.float64)
    length = np.linalg.norm(exact)
    result: NDArray[Any] = exact / length if length > 0 else exact
    return result
