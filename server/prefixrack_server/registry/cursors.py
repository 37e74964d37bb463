"""The cursors: where a list's next page begins. Each list reads its own; here is what all say of a foreign one."""

from __future__ import annotations

from prefixrack.errors import InvalidRequest


def number_of(cursor: str) -> int:
    """Of a list whose cursors are numbers. Raises InvalidRequest."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise foreign_cursor(cursor)
    return int(cursor)


def foreign_cursor(cursor: str) -> InvalidRequest:
    return InvalidRequest(f"the cursor {cursor[:80]!r} is none of this list's: send `next_cursor` as it came")
