"""Fields of a format: what each may hold, checked and described as a JSON schema. Knows no data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from prefixrack.errors import InvalidInput
from prefixrack_adapters.checks import checked_text, type_name


class Kind(Protocol):
    """What a field holds."""

    def check(self, value: object, field: str) -> Any:
        """The value, of the right type. Raises InputFault, naming the field."""

    def schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Text:
    def check(self, value: object, field: str) -> str:
        return checked_text(value, field)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of `least` to `most` strings."""

    least: int
    most: int

    def check(self, value: object, field: str) -> tuple[str, ...]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            seen = f"{len(value)} entries" if isinstance(value, list) else type_name(value)
            raise InvalidInput(f"{field} has {seen}; a list of {self.least} to {self.most} strings is needed")
        return tuple(checked_text(one, f"{field}[{index}]") for index, one in enumerate(value))

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": Text().schema(), "minItems": self.least, "maxItems": self.most}


@dataclass(frozen=True, slots=True)
class Index:
    """A place in a list, counted from 0; whether the list is that long is the format's to say."""

    def check(self, value: object, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            seen = value if isinstance(value, int) and not isinstance(value, bool) else type_name(value)
            raise InvalidInput(f"{field} is {seen}; a whole number from 0 is needed")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 0}


@dataclass(frozen=True, slots=True)
class OneOf:
    values: tuple[str, ...]

    def check(self, value: object, field: str) -> str:
        if not isinstance(value, str) or value not in self.values:
            seen = repr(value)[:40] if isinstance(value, str) else type_name(value)
            raise InvalidInput(f"{field} is {seen}; one of {', '.join(map(repr, self.values))} is needed")
        return value

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True, slots=True)
class Anything:
    """A field that data sets carry and no row is made of, such as an id: taken along, never read."""

    def check(self, value: object, field: str) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {}


TEXT = Text()


@dataclass(frozen=True, slots=True)
class Field:
    """`aliases` are other names of the same thing in copies of the data set."""

    name: str
    kind: Kind = TEXT
    aliases: tuple[str, ...] = ()
    is_optional: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)
