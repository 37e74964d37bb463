"""Character offsets: what unit the caller counts in, and where a visible character ends. Pure functions."""

from __future__ import annotations

import unicodedata

from prefixrack.types import OffsetUnit

ZERO_WIDTH_JOINER = "\u200d"
VARIATION_SELECTORS = range(0xFE00, 0xFE10)
SKIN_TONES = range(0x1F3FB, 0x1F400)


def whole_characters(text: str, start: int, end: int) -> tuple[int, int]:
    """Widen a codepoint range so that it never cuts a combining sequence or a joined emoji.

    Tokenizers drop accents before they look for words, so a token may end before its combining mark.
    """
    while 0 < start < len(text) and _continues(text, start):
        start -= 1
    while end < len(text) and _continues(text, end):
        end += 1
    return start, end


def without_outer_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow a codepoint range to what is visible in it: some tokenizers count the space before a word to the word."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _continues(text: str, index: int) -> bool:
    """Whether the codepoint at `index` belongs to the visible character before it."""
    mark, code = text[index], ord(text[index])
    return (
        unicodedata.category(mark) in ("Mn", "Mc", "Me")
        or mark == ZERO_WIDTH_JOINER
        or code in VARIATION_SELECTORS
        or code in SKIN_TONES
        or text[index - 1] == ZERO_WIDTH_JOINER
    )


class OffsetMap:
    """Codepoint offsets of one text in the unit that the caller asked for."""

    def __init__(self, text: str, unit: OffsetUnit) -> None:
        self._text = text
        self._unit = unit
        # ASCII counts the same in every unit
        self._is_identity = unit == "codepoint" or text.isascii()

    def __call__(self, offset: int) -> int:
        if self._is_identity:
            return offset
        before = self._text[:offset]
        return len(before.encode("utf-16-le")) // 2 if self._unit == "utf16" else len(before.encode())
