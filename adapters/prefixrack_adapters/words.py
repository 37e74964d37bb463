"""Raw text → words, for tasks that label words. One rule for every backbone, the same in training and serving."""

from __future__ import annotations

from dataclasses import dataclass

import regex

# A CJK character is a word of its own; letters, digits and marks joined by ' - . & / are one word; anything else
# visible is one word per grapheme (emoji sequences stay whole).
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]"
_LETTERS = r"[[\w\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]+"
WORD = regex.compile(rf"(?V1){_UNSPACED}\p{{M}}*|{_LETTERS}(?:[-'’.&/]{_LETTERS})*|(?=\S)\X")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text and the codepoint ranges where they stand in it."""

    words: list[str]
    ranges: list[tuple[int, int]]


def split_words(text: str) -> Words:
    matches = list(WORD.finditer(text))
    return Words([match.group() for match in matches], [match.span() for match in matches])
