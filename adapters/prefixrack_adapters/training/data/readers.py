"""Columns → input and target of one example, for each task that is served. Knows no files and no tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixrack.errors import EmptyInput, InputFault, InvalidUnicode
from prefixrack_adapters.formats import Format
from prefixrack_adapters.formats.fields import Index, Kind, Texts
from prefixrack_adapters.training.data.answers import question_answering
from prefixrack_adapters.training.data.choices import multiple_choice
from prefixrack_adapters.training.data.columns import Columns, shown
from prefixrack_adapters.training.data.examples import Target
from prefixrack_adapters.training.data.pairs import TEXT_PAIRS, text_embedding

Read = Callable[[Columns], tuple[Any, Target]]


def text_classification(row: Columns) -> tuple[Any, Target]:
    return _one_text_or_two(row), class_target(row)


def _one_text_or_two(row: Columns) -> Any:
    if row.is_mapped("text", "text_pair") or row.has("text"):
        first, second = row.text("text"), row.find("text_pair")
        is_alone = second is None or second == ""  # csv has no null
        return first if is_alone else {"text": first, "text_pair": row.as_text(second, "text_pair")}
    pair = next(((one, other) for one, other in TEXT_PAIRS if row.has(one) and row.has(other)), None)
    if pair is not None:
        return {"text": row.text(pair[0]), "text_pair": row.text(pair[1])}
    alone = next((name for name in ("sentence", "question") if row.has(name)), None)
    if alone is None:
        raise row.missing("text")
    return row.text(alone)


def class_target(row: Columns) -> Target:
    """`labels` (a list, or names joined by |) for several, `label` for one, else `value` or `score` for a number."""
    if row.is_mapped("value"):
        return row.number("value")
    several = row.find("labels") if not row.is_mapped("label") else None
    if several is not None:
        return _label_names(row, several)
    label = row.find("label")
    if label is not None:
        return label_name(row, label)
    if row.has("label") or row.find("value") is None:
        raise row.missing("label", hint=", of several labels --column labels=…, of a number --column value=…")
    return row.number("value")


def label_name(row: Columns, label: Any) -> str:
    """Names, whole numbers and true/false name a class; as text, so that every file form gives the same name."""
    if isinstance(label, (bool, int)) or (isinstance(label, str) and label.strip()):
        return str(label)
    if isinstance(label, float):
        raise row.fault(
            f"label is {label!r}: a class needs a name or a whole number; learn numbers by --column value=…"
        )
    if isinstance(label, list):
        raise row.fault(f"label is {shown(label)}: one class is needed; several go by --column labels=…")
    raise row.fault(f"label is {shown(label)}: the name of a class is needed")


def _label_names(row: Columns, labels: Any) -> tuple[str, ...]:
    names = labels.split("|") if isinstance(labels, str) and labels else labels or []
    if not isinstance(names, list):
        raise row.fault(
            f"labels is {shown(labels)}: a list or names joined by | is needed; one goes by --column label=…"
        )
    return tuple(label_name(row, one) for one in names)


def token_classification(row: Columns) -> tuple[Any, Target]:
    tokens = _words(row, "tokens")
    return {"tokens": tokens}, _tags(row, len(tokens))


def tags_target(row: Columns) -> Target:
    return _tags(row, len(_words(row, "tokens")))


def _words(row: Columns, name: str) -> list[Any]:
    """A list of strings, or words between spaces."""
    value = row.get(name)
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or (name == "tokens" and not all(isinstance(word, str) for word in words)):
        raise row.fault(f"{name} is {shown(value)}: a list of strings, or words between spaces, is needed")
    return words


def _tags(row: Columns, num_tokens: int) -> tuple[str, ...]:
    tags = _words(row, "tags")
    if not all(isinstance(tag, str) for tag in tags):
        raise row.fault(
            f"tags are {shown(tags)}: names are needed (B-x, I-x, O); numbers have names only in parquet and hub data "
            "sets that declare them"
        )
    if num_tokens != len(tags):
        raise row.fault(f"{num_tokens} tokens but {len(tags)} tags: one tag per token is needed")
    return tuple(tags)


READERS: Mapping[str, Read] = {
    "text-classification": text_classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "multiple-choice": multiple_choice,
    "text-embedding": text_embedding,
}
# Of the tasks whose formats are not read by the plain reader all the same (copa's and squad's are).
TARGETS: Mapping[str, Callable[[Columns], Target]] = {
    "text-classification": class_target,
    "token-classification": tags_target,
}


def reader_of(task: str, form: Format | None) -> Read:
    """With a format of the data set's own, inputs keep its fields."""
    if form is None or task not in TARGETS:
        return READERS[task]
    return lambda row: (own_fields(row.spread("target"), form), TARGETS[task](row))


def own_fields(row: Columns, form: Format) -> dict[str, Any]:
    """The format's fields under its own names, checked as they will be when they are served."""
    fields = {field.name: _own_value(row, field.names, field.kind) for field in form.fields}
    for field in form.fields:
        if fields[field.name] is None and not field.is_optional:
            raise row.missing(field.name)
    given = {name: value for name, value in fields.items() if value is not None}
    check_own_fields(row, form, given)
    return given


def check_own_fields(row: Columns, form: Format, fields: Mapping[str, Any]) -> None:
    try:
        form.plain(fields)
    except (EmptyInput, InvalidUnicode):
        return  # the trainer counts and skips such inputs, as it does plain ones
    except InputFault as fault:
        raise row.fault(fault.detail) from None


def _own_value(row: Columns, names: Sequence[str], kind: Kind) -> Any:
    """What csv can only hold as text is read as what the format takes."""
    value = row.find(*names)
    if isinstance(kind, Index) and isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(kind, Texts) and isinstance(value, str):
        return row.as_texts(row.as_structure(value, names[0]), names[0]) if value.startswith("[") else value.split()
    return value
