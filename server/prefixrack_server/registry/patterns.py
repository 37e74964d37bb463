"""The patterns: which names of adapters a key or a tenant is limited to. Knows no database but how it asks one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import ColumnElement, or_

from prefixrack.errors import InvalidRequest

Patterns = tuple[str, ...]

MAX_PATTERNS: Final = 64
_PATTERN: Final = re.compile(r"[a-z0-9._*?-]{1,63}")
_ESCAPE: Final = "\\"
# `_` is a sign of names, and LIKE's own for any one sign.
_LIKE: Final = str.maketrans({"*": "%", "?": "_", "_": f"{_ESCAPE}_"})


def check_patterns(patterns: Iterable[str]) -> list[str]:
    """Sorted, each once. Raises InvalidRequest."""
    wanted = sorted(set(patterns))
    for pattern in wanted:
        if not _PATTERN.fullmatch(pattern):
            raise InvalidRequest(
                f"adapters: {pattern[:80]!a} is no pattern of adapter names: 1 to 63 of a-z, 0-9, '.', '_', '-', "
                "'*' (any signs) and '?' (one sign) are allowed"
            )
    if len(wanted) > MAX_PATTERNS:
        raise InvalidRequest(f"adapters: {len(wanted)} patterns, at most {MAX_PATTERNS} are allowed")
    return wanted


def is_any(patterns: Patterns, name: str) -> bool:
    """Whether one of the patterns fits the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def fits_any(column: Any, patterns: Patterns) -> ColumnElement[bool]:
    """`is_any` in SQL."""
    return or_(*(column.like(pattern.translate(_LIKE), escape=_ESCAPE) for pattern in patterns))
