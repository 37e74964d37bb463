"""A format: one data set's own fields, and how they become a task's plain input. Knows no tokens and no adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prefixrack.errors import InvalidInput
from prefixrack_adapters.formats.fields import Field

PLAIN_FIELDS: Mapping[str, frozenset[str]] = {
    "text-classification": frozenset({"text", "text_pair"}),
    "multiple-choice": frozenset({"text", "choices"}),
    "token-classification": frozenset({"tokens"}),
    "question-answering": frozenset({"question", "context"}),
}


@dataclass(frozen=True, slots=True)
class Format:
    """`rewrite` takes the checked fields by name and gives what the task's `parse` takes.

    The wording is that of the original P-Tuning v2 code (THUDM/P-tuning-v2, `tasks/`), since an adapter is only as
    good as its inputs are like those that it was trained on.
    """

    name: str
    task: str
    fields: tuple[Field, ...]
    rewrite: Callable[[Mapping[str, Any]], Any]
    example: Mapping[str, Any]
    is_single_label: bool = False  # one label per row, named: what several rows say can be put side by side
    min_labels: int = 0

    def plain(self, value: object) -> Any:
        """The task's plain input; one that is plain already stays as it is. Raises InputFault."""
        if not isinstance(value, dict) or (value and set(value) <= PLAIN_FIELDS[self.task]):
            return value
        return self.rewrite(self._checked(value))

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {field.name: field.kind.schema() for field in self.fields},
            "required": [field.name for field in self.fields if not field.is_optional],
            "additionalProperties": False,
        }

    def _checked(self, value: Mapping[str, object]) -> dict[str, Any]:
        """The fields under their own names. Raises InvalidInput for those that are missing, unknown or given twice."""
        found: dict[str, Any] = {}
        missing, twice = [], []
        for field in self.fields:
            given = [name for name in field.names if value.get(name) is not None]
            if given:
                found[field.name] = field.kind.check(value[given[0]], given[0])
            elif not field.is_optional:
                missing.append(field.name)
            twice += given[1:]
        known = {name for field in self.fields for name in field.names}
        unknown = sorted(str(name) for name in value if name not in known)
        if missing or unknown or twice:
            raise InvalidInput(
                f"the input lacks {missing or 'nothing'}, has unknown fields {unknown or 'none'} and gives twice "
                f"{twice or 'nothing'}; input format {self.name!r} has {self._described()}"
            )
        return found

    def _described(self) -> str:
        return ", ".join(field.name + (" (optional)" if field.is_optional else "") for field in self.fields)
