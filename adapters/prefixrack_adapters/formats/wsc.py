"""Winograd schemas: is `span2`, a pronoun, the same as `span1`? Template 0 names it, template 1 marks its word."""

from __future__ import annotations

from collections.abc import Mapping
from string import punctuation
from typing import Any

from prefixrack.errors import InvalidInput
from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Field, Index

FIELDS = (
    Field("text"),
    Field("span1", aliases=("span1_text",)),
    Field("span2", aliases=("span2_text",)),
    Field("span1_index", Index(), is_optional=True),
    Field("span2_index", Index(), is_optional=True),
)
EXAMPLE = {"text": "Ann asked Mary because she had forgotten.", "span1": "Ann", "span2": "she"}


def named(fields: Mapping[str, Any]) -> Any:
    return {"text": f"{fields['span2']}: {fields['text']}", "text_pair": fields["span1"]}


def marked(fields: Mapping[str, Any]) -> Any:
    """The word at `span2_index`, counting words between spaces, in asterisks; spaces become single ones."""
    words = fields["text"].split()
    index = word_index(words, fields["span2"]) if fields.get("span2_index") is None else fields["span2_index"]
    if index >= len(words):
        raise InvalidInput(f"span2_index is {index}, but the text has {len(words)} words: they count from 0")
    words[index] = f"*{words[index]}*"
    return {"text": " ".join(words), "text_pair": fields["span1"]}


def word_index(words: list[str], span: str) -> int:
    """Where the span's words stand. Raises InvalidInput where that is nowhere or in several places."""
    wanted = [word.strip(punctuation) for word in span.split()]
    bare = [word.strip(punctuation) for word in words]
    places = [index for index in range(len(bare)) if bare[index : index + len(wanted)] == wanted]
    if len(places) != 1:
        raise InvalidInput(
            f"span2 {span[:40]!r} stands in {len(places)} places of the text: give `span2_index`, the index of its "
            "first word, counting words between spaces from 0"
        )
    return places[0]


WSC = (
    Format("wsc", "text-classification", FIELDS, named, EXAMPLE),
    Format("wsc.template1", "text-classification", FIELDS, marked, EXAMPLE),
)
