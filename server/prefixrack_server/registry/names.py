"""The names: what an adapter, an alias and a reference to a version may look like. Knows no database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from prefixrack.errors import AdapterNotFound, InvalidName
from prefixrack_adapters.names import NAME, NAME_RULE

LATEST: Final = "latest"
PRODUCTION: Final = "production"
# Each would collide with a route, or with one that is planned.
RESERVED: Final = frozenset(
    {"predict", "adapters", "models", "embeddings", "health", "metrics", "admin", "hf", "v2", "console", "docs"}
)

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference: at most one of `alias` and `number` is set; neither means the adapter's own choice."""

    name: str
    alias: str | None = None
    number: int | None = None


def check_name(name: str) -> str:
    """The name as it came. Raises InvalidName for one that breaks the rule or is reserved."""
    if not NAME.fullmatch(name):
        raise InvalidName(f"{_shown(name)} is no adapter name: allowed are {NAME_RULE}")
    if name in RESERVED:
        raise InvalidName(f"{name!r} is reserved for the server's own routes: choose another name")
    return name


def check_tenant(name: str) -> str:
    """The tenant's name as it came."""
    if not NAME.fullmatch(name):
        raise InvalidName(f"{_shown(name)} is no tenant name: allowed are {NAME_RULE}")
    return name


def check_alias(alias: str) -> str:
    """The alias as it came; `latest` passes, since it may be read."""
    if not NAME.fullmatch(alias):
        raise InvalidName(f"{_shown(alias)} is no alias: allowed are {NAME_RULE}")
    if alias.isdigit():
        raise InvalidName(f"the alias {alias!r} has only digits and would read as a version number: add a letter")
    return alias


def check_movable_alias(alias: str) -> str:
    """The alias as it came. Raises InvalidName for `latest` too: it moves by itself."""
    if check_alias(alias) == LATEST:
        raise InvalidName("the alias 'latest' moves by itself with each upload: set another one, such as 'production'")
    return alias


def parse_ref(ref: str) -> Ref:
    """Read `name`, `name@alias` or `name@7`. Raises InvalidName."""
    name, at, pointer = ref.partition("@")
    check_name(name)
    if not at:
        return Ref(name)
    if not pointer.isdecimal():
        return Ref(name, alias=check_alias(pointer))
    if not _NUMBER.fullmatch(pointer):
        raise InvalidName(f"{_shown(pointer)} is no version number: write one from 1, without leading zeros")
    return Ref(name, number=int(pointer))


def unknown_adapter(name: str) -> AdapterNotFound:
    """The same for one that is not there, one of another tenant and one that the key may not use."""
    return AdapterNotFound(
        f"there is no adapter {name!r}: GET /v1/adapters or `prefixrack list` shows those that this key may use"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
