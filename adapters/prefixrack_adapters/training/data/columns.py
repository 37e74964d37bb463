"""One record's columns under the names that the tasks use. Knows no task, no file form and no examples."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.training.data.records import Record

# Names that public data sets use, tried in order after the canonical one.
KNOWN_NAMES: Mapping[str, Sequence[str]] = {
    "text": ("sentence", "premise", "sentence1", "question"),
    "text_pair": ("hypothesis", "sentence2", "passage"),
    "value": ("score",),
    "tags": ("ner_tags",),
    "tokens": ("words",),
    "passage": ("paragraph",),
}


class OwnNames(dict[str, str]):
    """The caller's mapping. `asked` are the canonical names that readers have looked for in it."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.asked: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def check_used(self, source: object) -> None:
        """Raises InvalidRequest for a name that nothing looked for: the file's own column would stand in for it."""
        unused = sorted(self.keys() - self.asked)
        if unused:
            name = unused[0]
            raise InvalidRequest(
                f"{source}: no column {name!r}, which --column {name}={self[name]} names, is read; those that are: "
                f"{', '.join(sorted(self.asked))}"
            )


class Columns:
    """The caller's mapping (canonical → the file's own) goes first, then the names that data sets use.

    What is wrong is an InvalidRequest that begins with the record's place: see `fault`.
    """

    def __init__(self, record: Record, mapping: Mapping[str, str]) -> None:
        self._values = record.values
        self._mapping = mapping
        self.place = record.place

    def fault(self, problem: str) -> InvalidRequest:
        return InvalidRequest(f"{self.place}: {problem}")

    def spread(self, name: str) -> Columns:
        """With the fields of a nested column beside the others, which go first."""
        inner = self._value(name)
        values = {**inner, **self._values} if isinstance(inner, dict) else self._values
        return Columns(Record(values, self.place), self._mapping)

    def has(self, name: str) -> bool:
        """Whether there is such a column, by mapping or under this very name; it may be null."""
        return name in self._mapping or name in self._values

    def is_mapped(self, *names: str) -> bool:
        return any(known in self._mapping for name in names for known in _known(name))

    def find(self, *names: str) -> Any:
        """The first value under one of these names or, after each, its known ones; mapped names go first. Else None."""
        mapped = next((name for name in names if name in self._mapping), None)
        if mapped is not None:
            return self._mapped(mapped)
        every = (self._value(known) for name in names for known in _known(name))
        return next((value for value in every if value is not None), None)

    def get(self, *names: str) -> Any:
        value = self.find(*names)
        if value is None:
            raise self.missing(*names)
        return value

    def missing(self, *names: str, hint: str = "") -> InvalidRequest:
        known = [self._mapping.get(one, one) for name in names for one in _known(name)]
        empty = next((name for name in known if self._values.get(name, name) is None), None)
        if empty is not None:
            return self.fault(f"column {empty!r} is null here: a value is needed")
        there = sorted(str(name) for name in self._values)
        return self.fault(f"no column {names[0]!r} among {there}: name yours with --column {names[0]}=…{hint}")

    def text(self, *names: str) -> str:
        return self.as_text(self.get(*names), names[0])

    def as_text(self, value: Any, what: str) -> str:
        if not isinstance(value, str):
            raise self.fault(f"{what} is {shown(value)}: a string is needed")
        return value

    def number(self, *names: str) -> float:
        value = self.get(*names)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.fault(f"{names[0]} is {shown(value)}: a finite number is needed")
        return number

    def structure(self, *names: str) -> Any:
        """A list or an object; where the file form has none (csv), its JSON."""
        value = self.get(*names)
        return self.as_structure(value, names[0])

    def as_structure(self, value: Any, what: str) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise self.fault(f"{what} is {shown(value)}: a list or an object is needed, in csv as JSON") from None

    def texts(self, *names: str) -> list[str]:
        """A list of strings, one at least."""
        return self.as_texts(self.structure(*names), names[0])

    def as_texts(self, value: Any, what: str) -> list[str]:
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise self.fault(f"{what} is {shown(value)}: a list of strings is needed, one at least")
        return value

    def _value(self, name: str) -> Any:
        return self._mapped(name) if name in self._mapping else self._values.get(name)

    def _mapped(self, name: str) -> Any:
        column = self._mapping[name]
        if column not in self._values:
            there = sorted(str(one) for one in self._values)
            raise self.fault(f"no column {column!r}, which --column {name}={column} names, among {there}")
        return self._values[column]


def _known(name: str) -> tuple[str, ...]:
    return (name, *KNOWN_NAMES.get(name, ()))


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
