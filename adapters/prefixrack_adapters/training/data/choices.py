"""Columns of multiple choice → text, choices and the index of the right one. Knows no files and no tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from typing import Any

from prefixrack_adapters.formats.copa import CONNECTIVES
from prefixrack_adapters.training.data.columns import Columns, shown


def multiple_choice(row: Columns) -> tuple[Any, int]:
    names, choices = _choices(row)
    if len(choices) < 2:
        raise row.fault(f"choices is {shown(choices)}: two strings at least are needed")
    return {"text": _choice_text(row), "choices": choices}, _choice_index(row, names, len(choices))


def _choices(row: Columns) -> tuple[list[str], list[str]]:
    """The columns' names, where each choice has one of its own, and the choices."""
    if row.find("choices", "endings") is not None:
        value = row.structure("choices", "endings")
        return [], row.as_texts(value, "choices") if value else []
    for stem in ("choice", "ending"):
        first = 0 if row.find(f"{stem}0") is not None else 1
        every = (f"{stem}{number}" for number in count(first))
        names = list(takewhile(lambda name: row.find(name) is not None, every))
        if names:
            lead = row.text("sent2") + " " if row.has("sent2") else ""
            return names, [lead + row.text(name) for name in names]
    raise row.missing("choices")


def _choice_text(row: Columns) -> str:
    """The premise keeps its full stop before the connective: see the format copa."""
    if row.is_mapped("text") or not row.has("question") or row.find("question") in CONNECTIVES:
        text, question = row.text("text", "ctx", "sent1"), row.find("question")
        return f"{text} {CONNECTIVES[question]}" if question in CONNECTIVES else text
    if row.has("premise"):
        raise row.fault(f"question is {shown(row.find('question'))}: one of {', '.join(CONNECTIVES)} is needed")
    return row.text("text")


def _choice_index(row: Columns, names: Sequence[str], num_choices: int) -> int:
    label = row.get("label")
    if label in names:
        return names.index(label)
    is_digits = isinstance(label, str) and label.isascii() and label.isdigit()
    index = int(label) if is_digits else label
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < num_choices:
        raise row.fault(f"label {shown(label)} names none of {num_choices} choices: they count from 0")
    return index
