"""Text classification: one text or a pair; one label, several labels or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from prefixrack.errors import InvalidInput
from prefixrack.types import (
    ClassificationOutput,
    LabelScore,
    MultiLabelOutput,
    Output,
    Overlong,
    Parameters,
    RegressionOutput,
)
from prefixrack_adapters.checks import checked_fields, checked_text, type_name
from prefixrack_adapters.layout import longest_first, windows
from prefixrack_adapters.tasks.base import Logits, Prepared, Task, sigmoid, softmax

PARAMETERS_OF: Mapping[str, frozenset[str]] = {
    "single_label": frozenset({"top_k"}),
    "multi_label": frozenset({"top_k", "threshold"}),
    "regression": frozenset(),
}
# Adapters with a hundred labels are common: all their scores in one call take half the time of one call each.
LABEL_SCORES = TypeAdapter(list[LabelScore])


@dataclass(frozen=True, slots=True)
class TextPair:
    text: str
    text_pair: str | None


class TextClassification(Task[TextPair, Prepared]):
    name: ClassVar[str] = "text-classification"
    parameters: ClassVar[frozenset[str]] = frozenset({"top_k", "threshold"})
    overlong_choices: ClassVar[tuple[Overlong, ...]] = ("error", "truncate", "window")

    def allowed_parameters(self) -> frozenset[str]:
        return PARAMETERS_OF[self.manifest.decoding.problem]

    def parse(self, value: object) -> TextPair:
        if isinstance(value, str):
            return TextPair(checked_text(value, "the text"), None)
        if not isinstance(value, dict):
            raise InvalidInput(
                f"the input is {type_name(value)}; a string or an object with text, text_pair (optional) is needed"
            )
        fields = checked_fields(value, ["text"], ["text_pair"])
        pair = fields.get("text_pair")
        return TextPair(checked_text(fields["text"], "text"), None if pair is None else checked_text(pair, "text_pair"))

    def encode(self, inputs: Sequence[TextPair]) -> Sequence[tuple[list[int], list[int] | None]]:
        texts = [text for value in inputs for text in (value.text, value.text_pair) if text is not None]
        encoded = iter(self.tokenizer.encode_ids(texts))
        return [(next(encoded), None if value.text_pair is None else next(encoded)) for value in inputs]

    def build(self, value: TextPair, encoded: tuple[list[int], list[int] | None], overlong: Overlong) -> Prepared:
        first, second = encoded
        if second is None:
            return self._build_single(first, overlong)
        return self._build_pair(first, second, overlong)

    def _build_single(self, ids: list[int], overlong: Overlong) -> Prepared:
        room = self.max_tokens - self.layout.num_single
        if len(ids) <= room:
            return Prepared((self.layout.single_row(ids, self.first_position),), truncated=False)
        if overlong == "error":
            raise self.too_long(len(ids) + self.layout.num_single, self.max_tokens)
        if overlong == "truncate":
            return Prepared((self.layout.single_row(ids[:room], self.first_position),), truncated=True)
        ranges = windows(len(ids), room, self.manifest.tokenization.stride)
        rows = tuple(self.layout.single_row(ids[start:end], self.first_position) for start, end in ranges)
        return Prepared(rows, truncated=False)

    def _build_pair(self, first: list[int], second: list[int], overlong: Overlong) -> Prepared:
        room = self.max_tokens - self.layout.num_pair
        if len(first) + len(second) <= room:
            return Prepared((self._pair_row(first, second),), truncated=False)
        if overlong == "truncate":
            first_len, second_len = longest_first(len(first), len(second), room)
            return Prepared((self._pair_row(first[:first_len], second[:second_len]),), truncated=True)
        window_room = room - len(first)
        if overlong == "error" or window_room < 1:
            raise self.too_long(len(first) + len(second) + self.layout.num_pair, self.max_tokens)
        ranges = windows(len(second), window_room, self.manifest.tokenization.stride)
        return Prepared(tuple(self._pair_row(first, second[start:end]) for start, end in ranges), truncated=False)

    def _pair_row(self, first: Sequence[int], second: Sequence[int]) -> Any:
        return self.layout.pair_row(first, second, self.first_position, self.manifest.tokenization.segments)

    def finish(self, prepared: Prepared, logits: Sequence[Logits], parameters: Parameters) -> Output:
        merged = merge_windows(prepared, logits)
        common: dict[str, Any] = {
            "truncated": prepared.truncated,
            "windows": len(prepared.rows) if len(prepared.rows) > 1 else None,
            "logits": merged.tolist() if parameters.logits else None,
        }
        match self.manifest.decoding.problem:
            case "regression":
                return RegressionOutput(value=float(merged[0]), **common)
            case "multi_label":
                return self._several(merged, parameters, common)
            case "single_label":
                scores = self.ranked(softmax(merged), parameters.top_k)
                return ClassificationOutput(label=scores[0].label, score=scores[0].score, scores=scores, **common)

    def _several(self, merged: NDArray[Any], parameters: Parameters, common: dict[str, Any]) -> MultiLabelOutput:
        wanted = parameters.threshold
        threshold = self.manifest.decoding.threshold if wanted is None else wanted
        ranked = self.ranked(sigmoid(merged), None)
        chosen = [entry for entry in ranked if entry.score >= threshold]
        return MultiLabelOutput(labels=chosen, scores=ranked[: parameters.top_k], **common)

    def ranked(self, scores: NDArray[np.float64], top_k: int | None) -> list[LabelScore]:
        """Labels by falling score; a tie keeps the manifest's order."""
        values: list[float] = scores.tolist()  # a short list: sorting it costs less than numpy's calls
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
        labels = self.manifest.labels
        return LABEL_SCORES.validate_python([{"label": labels[index], "score": values[index]} for index in order])

    def plain_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        pair = {
            "type": "object",
            "properties": {"text": text, "text_pair": text},
            "required": ["text"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, pair]}

    def default_example(self) -> object:
        return "An example text."


def merge_windows(prepared: Prepared, logits: Sequence[Logits]) -> NDArray[Any]:
    """One logit vector for the input: the mean of its windows' weighted by their tokens."""
    if len(logits) == 1:
        return logits[0]
    weights = np.array([len(row) for row in prepared.rows], dtype=np.float64)
    merged: NDArray[Any] = np.average(np.stack(logits), axis=0, weights=weights)
    return merged
