"""Extractive question answering: windows with a stride over the context, n-best spans, SQuAD 2.0's no answer.

Decoding follows the original P-Tuning v2 code (THUDM/P-tuning-v2, `training/trainer_qa.py` and `tasks/qa/utils_qa.py`):
n-best starts × ends, the null score is the smallest start[0] + end[0] of all windows, and null wins when it beats the
best answer by more than the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prefixrack.errors import InputTooLong
from prefixrack.types import Answer, Overlong, Parameters, QuestionAnsweringOutput
from prefixrack_adapters.checks import checked_fields, checked_text
from prefixrack_adapters.layout import windows
from prefixrack_adapters.offsets import OffsetMap, whole_characters, without_outer_spaces
from prefixrack_adapters.tasks.base import Logits, Prepared, Task, softmax
from prefixrack_adapters.tokenizer import Tokens

# A window must show at least this much of the context, or its answers mean nothing.
MIN_CONTEXT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class QuestionContext:
    question: str
    context: str


@dataclass(frozen=True, slots=True)
class PreparedContext(Prepared):
    """`ranges[r]` are the context tokens in row r, `first` the index in the row of the first of them."""

    context: str
    offsets: tuple[tuple[int, int], ...]
    ranges: tuple[tuple[int, int], ...]
    first: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer in context tokens, both ends included, and its start + end logit."""

    start: int
    end: int
    score: float


class QuestionAnswering(Task[QuestionContext, PreparedContext]):
    name: ClassVar[str] = "question-answering"
    parameters: ClassVar[frozenset[str]] = frozenset({"offset_unit", "n_best", "max_answer_len", "null_threshold"})
    overlong_choices: ClassVar[tuple[Overlong, ...]] = ("window", "error", "truncate")

    def allowed_parameters(self) -> frozenset[str]:
        return self.parameters if self.manifest.decoding.no_answer else self.parameters - {"null_threshold"}

    def parse(self, value: object) -> QuestionContext:
        fields = checked_fields(value, ["question", "context"])
        question = checked_text(fields["question"], "question").lstrip()
        return QuestionContext(question, checked_text(fields["context"], "context"))

    def encode(self, inputs: Sequence[QuestionContext]) -> Sequence[tuple[Tokens, Tokens]]:
        texts = [text for value in inputs for text in (value.question, value.context)]
        encoded = self.tokenizer.encode_texts(texts)
        return list(zip(encoded[::2], encoded[1::2], strict=True))

    def build(self, value: QuestionContext, encoded: tuple[Tokens, Tokens], overlong: Overlong) -> PreparedContext:
        question, context = encoded
        room = self.max_tokens - self.layout.num_pair - len(question)
        if room < min(MIN_CONTEXT_TOKENS, len(context)):
            raise InputTooLong(
                f"the question has {len(question)} tokens and leaves {max(0, room)} of {self.max_tokens} for the "
                f"context; at least {MIN_CONTEXT_TOKENS} are needed: shorten the question"
            )
        is_overlong = len(context) > room
        if is_overlong and overlong == "error":
            raise self.too_long(len(context) + len(question) + self.layout.num_pair, self.max_tokens)
        ranges = windows(len(context), room, self.manifest.tokenization.stride)
        if overlong == "truncate":
            ranges = ranges[:1]
        segments = self.manifest.tokenization.segments
        rows = tuple(
            self.layout.pair_row(question.ids, context.ids[start:end], self.first_position, segments)
            for start, end in ranges
        )
        return PreparedContext(
            rows,
            is_overlong and overlong == "truncate",
            value.context,
            tuple(context.offsets),
            tuple(ranges),
            len(self.layout.start) + len(question) + len(self.layout.middle),
        )

    def finish(self, prepared: PreparedContext, logits: Sequence[Logits], parameters: Parameters) -> Any:
        decoding = self.manifest.decoding
        n_best = parameters.n_best or decoding.n_best
        max_len = parameters.max_answer_len or decoding.max_answer_len
        wanted = parameters.null_threshold
        threshold = decoding.null_threshold if wanted is None else wanted
        best = best_candidates(prepared, logits, n_best, max_len)
        null = min(float(row[0, 0] + row[0, 1]) for row in logits)
        scores = _scores(best, null if decoding.no_answer else None)
        units = OffsetMap(prepared.context, parameters.offset_unit)
        answers = [_answer(one, score, prepared, units) for one, score in zip(best, scores, strict=False)]
        is_null = not best or (decoding.no_answer and null - best[0].score > threshold)
        return QuestionAnsweringOutput(
            answer=None if is_null else answers[0],
            no_answer_score=scores[-1] if decoding.no_answer else 0.0,
            answers=answers,
            truncated=prepared.truncated,
            windows=len(prepared.rows) if len(prepared.rows) > 1 else None,
            **(_raw(prepared, logits, units) if parameters.logits else {}),
        )

    def plain_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        return {
            "type": "object",
            "properties": {"question": text, "context": text},
            "required": ["question", "context"],
            "additionalProperties": False,
        }

    def default_example(self) -> object:
        return {"question": "Where was Ada born?", "context": "Ada Lovelace was born in London in 1815."}


def best_candidates(
    prepared: PreparedContext, logits: Sequence[Logits], n_best: int, max_answer_len: int
) -> list[Candidate]:
    """The n best answers over all windows, best first; the same span seen from two windows counts once."""
    best: dict[tuple[int, int], Candidate] = {}
    for window, row in zip(prepared.ranges, logits, strict=True):
        for found in _window_candidates(window, row, prepared.first, n_best, max_answer_len):
            key = (found.start, found.end)
            if key not in best or found.score > best[key].score:
                best[key] = found
    return sorted(best.values(), key=lambda one: (-one.score, one.start, one.end))[:n_best]


def _window_candidates(
    window: tuple[int, int], logits: Logits, first: int, n_best: int, max_answer_len: int
) -> list[Candidate]:
    """The n best spans of one window; on a tie the earlier start, then the earlier end, comes first."""
    num_tokens = window[1] - window[0]
    context = logits[first : first + num_tokens].astype(np.float64)
    starts, ends = (np.sort(np.argsort(-column, kind="stable")[:n_best]) for column in context.T)
    lengths = ends[None, :] - starts[:, None] + 1
    pairs = np.argwhere((lengths >= 1) & (lengths <= max_answer_len))  # by start, then end
    found = starts[pairs[:, 0]], ends[pairs[:, 1]]
    scores = context[found[0], 0] + context[found[1], 1]
    best = np.argsort(-scores, kind="stable")[:n_best]
    columns = (window[0] + found[0][best], window[0] + found[1][best], scores[best])
    return [Candidate(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]


def _scores(best: Sequence[Candidate], null: float | None) -> list[float]:
    """Softmax over the n best and, where the adapter knows it, null, whose score comes last."""
    values = [one.score for one in best] + ([] if null is None else [null])
    return softmax(np.array(values)).tolist() if values else []


def _answer(one: Candidate, score: float, prepared: PreparedContext, units: OffsetMap) -> Answer:
    start, end = prepared.offsets[one.start][0], prepared.offsets[one.end][1]
    start, end = whole_characters(prepared.context, *without_outer_spaces(prepared.context, start, end))
    return Answer(text=prepared.context[start:end], start=units(start), end=units(end), score=score)


def _raw(prepared: PreparedContext, logits: Sequence[Logits], units: OffsetMap) -> dict[str, Any]:
    """[start, end] logits of every token of every window, and where in the context it stands: null outside of it."""
    return {
        "logits": [row.tolist() for row in logits],
        "logit_offsets": [
            _row_offsets(prepared, window, len(row), units)
            for window, row in zip(prepared.ranges, prepared.rows, strict=True)
        ],
    }


def _row_offsets(
    prepared: PreparedContext, window: tuple[int, int], row_len: int, units: OffsetMap
) -> list[list[int] | None]:
    inside = [[units(start), units(end)] for start, end in prepared.offsets[window[0] : window[1]]]
    num_after = row_len - prepared.first - len(inside)
    return [*[None] * prepared.first, *inside, *[None] * num_after]
