from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixrack_adapters.words import split_words

FAMILY = "\U0001f468‍\U0001f469‍\U0001f467"
THUMB = "\U0001f44d\U0001f3fd"
FLAG = "\U0001f1eb\U0001f1f7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada was here.", ["Ada", "was", "here", "."]),
        ("don't stop", ["don't", "stop"]),
        ("state-of-the-art", ["state-of-the-art"]),
        ("AT&T, U.S.A.", ["AT&T", ",", "U.S.A", "."]),
        ("3.14 and/or 5", ["3.14", "and/or", "5"]),
        ("(a)", ["(", "a", ")"]),
        ("東京に行く", ["東", "京", "に", "行", "く"]),
        ("iPhone東京", ["iPhone", "東", "京"]),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        (f"hi{FAMILY}!", ["hi", FAMILY, "!"]),
        (f"{THUMB}{FLAG}", [THUMB, FLAG]),
        ("שלום, עולם", ["שלום", ",", "עולם"]),
        ("مَرحَبا بك", ["مَرحَبا", "بك"]),
        ("\u0e19\u0e49\u0e33", ["\u0e19\u0e49", "\u0e33"]),
        ("a\0b", ["a", "\0", "b"]),
        ("  spaced\t\nout ", ["spaced", "out"]),
        ("", []),
    ],
)
def test_words_of(text: str, words: list[str]) -> None:
    assert split_words(text).words == words


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_word_stands_where_its_range_says_and_nothing_visible_is_lost(text: str) -> None:
    found = split_words(text)
    assert [text[start:end] for start, end in found.ranges] == found.words
    assert all(left[1] <= right[0] for left, right in pairwise(found.ranges))
    rest = list(text)
    for start, end in found.ranges:
        rest[start:end] = " " * (end - start)
    assert not "".join(rest).strip()
