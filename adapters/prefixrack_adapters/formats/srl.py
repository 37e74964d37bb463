"""Semantic roles of one predicate: the predicate's word stands again behind the sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefixrack.errors import InvalidInput
from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Field, Index, Texts

# A special token for some tokenizers, six characters of text for others: trained as the tokenizer has it.
SEPARATOR = "[SEP]"
MAX_WORDS = 10_000


@dataclass(frozen=True, slots=True)
class WordsWithTail:
    """Words to label, and words behind them that only help."""

    words: tuple[str, ...]
    tail: tuple[str, ...]


def point_at(fields: Mapping[str, Any]) -> WordsWithTail:
    words, index = fields["tokens"], fields["predicate_index"]
    if index >= len(words):
        raise InvalidInput(f"predicate_index is {index}, but there are {len(words)} tokens: they count from 0")
    return WordsWithTail(words, (SEPARATOR, words[index]))


SRL = Format(
    "srl",
    "token-classification",
    (Field("tokens", Texts(1, MAX_WORDS)), Field("predicate_index", Index())),
    point_at,
    {"tokens": ["The", "chair", "closed", "the", "session"], "predicate_index": 2},
)
