"""Token classification (NER, chunking, slots): one label per word, BIO or BIOES tags joined to spans.

A word's label is read at its first token, as the original P-Tuning v2 code trains it. Raw text is split into words by
`words.split_words`; words may also come as a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import EmptyInput, InputTooLong, InvalidInput
from prefixrack.types import Overlong, Parameters, Span, TokenClassificationOutput
from prefixrack_adapters.checks import checked_fields, checked_text, type_name
from prefixrack_adapters.formats import WordsWithTail
from prefixrack_adapters.layout import best_window, windows
from prefixrack_adapters.manifest import OUTSIDE
from prefixrack_adapters.offsets import OffsetMap, whole_characters
from prefixrack_adapters.tasks.base import Logits, Prepared, Task, softmax
from prefixrack_adapters.tokenizer import Tokens
from prefixrack_adapters.words import split_words


@dataclass(frozen=True, slots=True)
class WordText:
    """`ranges` locate the words in `text`; for words sent as a list, `text` is the list joined by single spaces.

    The words of `tail` stand behind the others in every row and are not labelled.
    """

    words: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    text: str
    are_words_given: bool
    tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedWords(Prepared):
    """`places[w]` is (row, index in that row) of word w's first token; None: the word has no token or was cut off."""

    source: WordText
    places: tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TaggedSpan:
    """A labelled run of words, `end` exclusive."""

    label: str
    start: int
    end: int


class TokenClassification(Task[WordText, PreparedWords]):
    name: ClassVar[str] = "token-classification"
    parameters: ClassVar[frozenset[str]] = frozenset({"offset_unit"})
    overlong_choices: ClassVar[tuple[Overlong, ...]] = ("window", "error", "truncate")

    def parse(self, value: object) -> WordText:
        if isinstance(value, WordsWithTail):
            return _given_words(value.words, value.tail)
        if isinstance(value, str):
            text = checked_text(value, "the text")
            found = split_words(text)
            return WordText(tuple(found.words), tuple(found.ranges), text, are_words_given=False)
        if not isinstance(value, dict):
            raise InvalidInput(f"the input is {type_name(value)}; a string or an object with tokens is needed")
        return _given_words(_checked_words(checked_fields(value, ["tokens"])["tokens"]))

    def encode(self, inputs: Sequence[WordText]) -> Sequence[Tokens]:
        return self.tokenizer.encode_words([(*value.words, *value.tail) for value in inputs])

    def build(self, value: WordText, encoded: Tokens, overlong: Overlong) -> PreparedWords:
        room = self.max_tokens - self.layout.num_single
        is_overlong = len(encoded) > room
        if is_overlong and overlong == "error":
            raise self.too_long(len(encoded) + self.layout.num_single, self.max_tokens)
        own, tail = _split_at_tail(encoded, len(value.words))
        if overlong == "truncate":
            # one sequence to the tool that cuts: the tail goes first
            ranges, tail = [(0, min(len(own), room))], tail[: max(0, room - len(own))]
        else:
            ranges = self._windows(len(own), room - len(tail))
        ids = [[*own[start:end], *tail] for start, end in ranges]
        rows = tuple(self.layout.single_row(of_row, self.first_position) for of_row in ids)
        places = _word_places(encoded, len(value.words), ranges, len(self.layout.start))
        return PreparedWords(rows, is_overlong and overlong == "truncate", value, places)

    def _windows(self, num_tokens: int, room: int) -> list[tuple[int, int]]:
        if room < 1:
            raise InputTooLong(
                f"the words behind the sentence leave no room of {self.max_tokens} tokens: shorten the predicate"
            )
        return windows(num_tokens, room, self.manifest.tokenization.stride)

    def finish(self, prepared: PreparedWords, logits: Sequence[Logits], parameters: Parameters) -> Any:
        word_logits = _word_logits(prepared, logits, len(self.manifest.labels))
        scores = softmax(word_logits)
        tags = [
            self.manifest.labels[int(row.argmax())] if place is not None else OUTSIDE
            for row, place in zip(scores, prepared.places, strict=True)
        ]
        found = join_tags(tags)
        units = OffsetMap(prepared.source.text, parameters.offset_unit)
        chosen = scores.max(axis=-1)
        return TokenClassificationOutput(
            spans=[_span(span, prepared.source, chosen, units) for span in found],
            tags=tags if prepared.source.are_words_given else None,
            truncated=prepared.truncated,
            windows=len(prepared.rows) if len(prepared.rows) > 1 else None,
            **(_raw(prepared, word_logits, units) if parameters.logits else {}),
        )

    def plain_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1}
        words = {
            "type": "object",
            "properties": {"tokens": {"type": "array", "items": text, "minItems": 1}},
            "required": ["tokens"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, words]}

    def default_example(self) -> object:
        return "Ada Lovelace was born in London."


def _checked_words(tokens: object) -> tuple[str, ...]:
    if not isinstance(tokens, list):
        raise InvalidInput(f"tokens is {type_name(tokens)}; a list of words is needed")
    if not tokens:
        raise EmptyInput("tokens is empty: at least one word is needed")
    return tuple(checked_text(word, f"tokens[{index}]") for index, word in enumerate(tokens))


def _given_words(words: tuple[str, ...], tail: tuple[str, ...] = ()) -> WordText:
    ranges, start = [], 0
    for word in words:
        ranges.append((start, start + len(word)))
        start += len(word) + 1
    return WordText(words, tuple(ranges), " ".join(words), are_words_given=True, tail=tail)


def _split_at_tail(encoded: Tokens, num_words: int) -> tuple[list[int], list[int]]:
    """Ids of the words to label, and of those behind them."""
    num_own = next((index for index, owner in enumerate(encoded.words) if owner >= num_words), len(encoded))
    return encoded.ids[:num_own], encoded.ids[num_own:]


def _word_places(
    encoded: Tokens, num_words: int, ranges: Sequence[tuple[int, int]], num_before: int
) -> tuple[tuple[int, int] | None, ...]:
    """Each word's first token, read from the window in which that token has most context."""
    first_tokens: dict[int, int] = {}
    for index, owner in enumerate(encoded.words):
        first_tokens.setdefault(owner, index)
    covered = ranges[-1][1]
    places: list[tuple[int, int] | None] = []
    for word in range(num_words):
        position = first_tokens.get(word)
        if position is None or position >= covered:
            places.append(None)
            continue
        window = best_window(position, ranges)
        places.append((window, num_before + position - ranges[window][0]))
    return tuple(places)


def _word_logits(prepared: PreparedWords, logits: Sequence[Logits], num_labels: int) -> NDArray[Any]:
    """[num_words, num_labels]; zeros for words without a token."""
    result = np.zeros((len(prepared.places), num_labels), dtype=np.float32)
    for word, place in enumerate(prepared.places):
        if place is not None:
            result[word] = logits[place[0]][place[1]]
    return result


def _raw(prepared: PreparedWords, word_logits: NDArray[Any], units: OffsetMap) -> dict[str, Any]:
    """Logits of every word and where it stands; null logits for a word that has no token or was cut off."""
    source = prepared.source
    offsets = [whole_characters(source.text, start, end) for start, end in source.ranges]
    shown = zip(word_logits.tolist(), prepared.places, strict=True)
    return {
        "logits": [values if place is not None else None for values, place in shown],
        "logit_offsets": [[units(start), units(end)] for start, end in offsets],
    }


def join_tags(tags: Sequence[str]) -> list[TaggedSpan]:
    """Spans of BIO or BIOES tags, leniently: an I or E that continues nothing of its kind opens a span."""
    return list(_joined(tags))


def _joined(tags: Sequence[str]) -> Iterator[TaggedSpan]:
    label, start = "", 0
    for index, tag in enumerate(tags):
        mark, _, kind = tag.partition("-") if tag != OUTSIDE else (OUTSIDE, "", "")
        continues = mark in ("I", "E") and kind == label
        if label and not continues:
            yield TaggedSpan(label, start, index)
            label = ""
        if mark != OUTSIDE and not continues:
            label, start = kind, index
        if label and mark in ("E", "S"):
            yield TaggedSpan(label, start, index + 1)
            label = ""
    if label:
        yield TaggedSpan(label, start, len(tags))


def _span(span: TaggedSpan, source: WordText, chosen: NDArray[Any], units: OffsetMap) -> Span:
    """Score: the mean of the words' probabilities of their own tags."""
    start, end = whole_characters(source.text, source.ranges[span.start][0], source.ranges[span.end - 1][1])
    return Span(
        label=span.label,
        start=units(start),
        end=units(end),
        text=source.text[start:end],
        score=float(chosen[span.start : span.end].mean()),
        word_start=span.start if source.are_words_given else None,
        word_end=span.end if source.are_words_given else None,
    )
