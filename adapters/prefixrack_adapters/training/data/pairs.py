"""Columns that come in pairs: the names public data sets have, and pairs of texts for embeddings. Knows no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefixrack_adapters.training.data.columns import Columns, shown
from prefixrack_adapters.training.data.examples import Similarity

Pair = tuple[str, str]

# Tried in order, where a record has no `text`.
TEXT_PAIRS: Sequence[Pair] = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "passage"),
    ("question", "sentence"),
    ("question1", "question2"),
)
EMBEDDING_PAIRS: Sequence[Pair] = (("text", "text_pair"), *TEXT_PAIRS, ("query", "answer"))
# What stands before `positive`, a column whose name says that the two belong together.
ANCHORS: Sequence[str] = ("text", "anchor", "query", *(first for first, _ in TEXT_PAIRS))


def text_embedding(row: Columns) -> tuple[Any, Similarity]:
    """Two texts, and how alike they are where that is known; else they belong together."""
    (first, second), is_match = _embedding_pair(row)
    pair = (_titled(row, first), _titled(row, second))
    if row.find("value") is not None:
        return pair, Similarity(row.number("value"))
    if row.has("value") or row.has("score"):
        raise row.missing("value")
    if row.has("label") and not is_match:
        raise row.fault(
            f"label is {shown(row.find('label'))}, but embeddings learn from scores, or from texts that belong "
            f"together: give --column value=label, or --column positive={second} where all of them do"
        )
    return pair, Similarity(None)


def _embedding_pair(row: Columns) -> tuple[Pair, bool]:
    """The two columns, and whether the second is one of matches by its name."""
    if row.has("positive"):
        return (next((name for name in ANCHORS if row.has(name)), "text"), "positive"), True
    canonical = ("text", "text_pair")
    if row.is_mapped(*canonical):
        return canonical, False
    there = (pair for pair in EMBEDDING_PAIRS if row.has(pair[0]) and row.has(pair[1]))
    return next(there, canonical), False


def _titled(row: Columns, name: str) -> Any:
    """A text, or an object with a text and a title before it, as the task takes it."""
    value = row.get(name)
    if isinstance(value, dict) and value.get("title") is None:
        value = value.get("text")
    if not isinstance(value, dict):
        return row.as_text(value, name)
    return {part: row.as_text(value.get(part), f"{part} of {name}") for part in ("title", "text")}
