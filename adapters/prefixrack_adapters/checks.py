"""Checks of inputs as they came over the wire. Knows no task: its callers name the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prefixrack.errors import EmptyInput, InvalidInput, InvalidUnicode


def checked_text(value: object, field: str) -> str:
    """Raises InvalidInput, EmptyInput or InvalidUnicode."""
    if not isinstance(value, str):
        raise InvalidInput(f"{field} is {type_name(value)}; a string is needed")
    if not value.strip():
        raise EmptyInput(f"{field} is empty or blank: at least one visible character is needed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidUnicode(
            f"{field} has a lone surrogate at character {error.start}: send whole characters (valid Unicode)"
        ) from None
    return value


def checked_fields(value: object, required: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, object]:
    """An object with exactly these fields. Raises InvalidInput, naming what is missing or too much."""
    names = ", ".join([*required, *(f"{name} (optional)" for name in optional)])
    if not isinstance(value, dict):
        raise InvalidInput(f"the input is {type_name(value)}; an object with {names} is needed")
    missing = [name for name in required if name not in value]
    unknown = sorted(str(name) for name in value if name not in required and name not in optional)
    faults = [f"{fault} {fields}" for fault, fields in (("lacks", missing), ("has unknown fields", unknown)) if fields]
    if faults:
        raise InvalidInput(f"the input {' and '.join(faults)}; fields: {names}")
    return value


def type_name(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
