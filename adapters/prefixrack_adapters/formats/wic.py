"""Words in context: does a word mean the same in two sentences? Template 0 asks in words, template 1 is a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Field

FIELDS = (Field("sentence1"), Field("sentence2"), Field("word"))
EXAMPLE = {"sentence1": "He sat on the bank of a river.", "sentence2": "The bank lent him money.", "word": "bank"}


def as_question(fields: Mapping[str, Any]) -> Any:
    first, second, word = fields["sentence1"], fields["sentence2"], fields["word"]
    return {"text": f"{first} {second} Does {word} have the same meaning in both sentences?"}


def as_pair(fields: Mapping[str, Any]) -> Any:
    first, second, word = fields["sentence1"], fields["sentence2"], fields["word"]
    return {"text": f"{word}: {first}", "text_pair": f"{word}: {second}"}


WIC = (
    Format("wic", "text-classification", FIELDS, as_question, EXAMPLE),
    Format("wic.template1", "text-classification", FIELDS, as_pair, EXAMPLE),
)
