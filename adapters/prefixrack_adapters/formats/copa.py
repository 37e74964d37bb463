"""Choice of plausible alternatives: the cause or the effect of a premise, asked by a connective behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.fields import Field, OneOf, Texts

CONNECTIVES = {"cause": "because", "effect": "so"}
MAX_CHOICES = 64


def ask(fields: Mapping[str, Any]) -> Any:
    """The premise keeps its full stop: adapters were trained so."""
    text = f"{fields['premise']} {CONNECTIVES[fields['question']]}"
    return {"text": text, "choices": list(fields["choices"])}


COPA = Format(
    "copa",
    "multiple-choice",
    (Field("premise"), Field("question", OneOf(tuple(CONNECTIVES))), Field("choices", Texts(2, MAX_CHOICES))),
    ask,
    {"premise": "The street was wet.", "question": "cause", "choices": ["It rained all night.", "The sun shone."]},
)
