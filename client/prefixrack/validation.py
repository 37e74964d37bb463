"""What pydantic found wrong with a value, in the words and places that the project's messages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

PREFIX_OF_OWN_CHECKS = "Value error, "  # pydantic puts it before the words of a check that raised ValueError


@dataclass(frozen=True, slots=True)
class Problem:
    """`kind` is pydantic's type of it, `parts` the keys that lead to it, `seen` the value that is there."""

    kind: str
    parts: tuple[int | str, ...]
    sentence: str
    seen: Any

    @property
    def place(self) -> str:
        """The keys with dots between them; empty where the whole value is at fault."""
        return ".".join(str(part) for part in self.parts)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Problem:
        """From an item of `ValidationError.errors()`."""
        sentence = str(found["msg"]).removeprefix(PREFIX_OF_OWN_CHECKS)
        return cls(str(found["type"]), tuple(found["loc"]), sentence, found.get("input"))


def problems_of(found: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """Of `ValidationError.errors()`, or of what a web framework makes of it."""
    return [Problem.of(one) for one in found]


def first_problem(error: ValidationError) -> Problem:
    """There is always one."""
    return Problem.of(error.errors(include_url=False, include_context=False)[0])
