from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixrack_adapters.offsets import OffsetMap, whole_characters, without_outer_spaces

FAMILY = "\U0001f468‍\U0001f469‍\U0001f467"  # three people joined by ZWJ
THUMB = "\U0001f44d\U0001f3fd"  # with a skin tone
HEART = "❤️"  # with a variation selector
E_ACUTE = "e\u0301"  # a combining accent
THAI = "\u0e19\u0e49\u0e33"  # a tone mark in the middle
TEXTS = [FAMILY, THUMB, HEART, E_ACUTE, "東京", "שלום", "مَرحَبا", THAI, "a\0b", "plain"]


@pytest.mark.parametrize("cluster", [FAMILY, THUMB, HEART, E_ACUTE, "\u05e9\u05b8", "\u0645\u064e", "\u0e19\u0e49"])
def test_a_range_that_cuts_a_character_is_widened(cluster: str) -> None:
    text = f"x{cluster}y"
    for cut in range(1, len(cluster)):
        assert whole_characters(text, 1, 1 + cut) == (1, 1 + len(cluster))
        assert whole_characters(text, 1 + cut, 1 + len(cluster)) == (1, 1 + len(cluster))


@pytest.mark.parametrize("text", TEXTS)
def test_a_whole_range_stays(text: str) -> None:
    assert whole_characters(f"x {text} y", 2, 2 + len(text)) == (2, 2 + len(text))


@pytest.mark.parametrize(("start", "end", "kept"), [(0, 8, (2, 6)), (2, 6, (2, 6)), (1, 3, (2, 3)), (0, 2, (2, 2))])
def test_outer_spaces_are_left_out(start: int, end: int, kept: tuple[int, int]) -> None:
    assert without_outer_spaces("  ab c\t ", start, end) == kept


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.data())
def test_units_are_those_of_python_encodings(text: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(text)))
    assert OffsetMap(text, "codepoint")(offset) == offset
    assert OffsetMap(text, "utf16")(offset) == len(text[:offset].encode("utf-16-le")) // 2
    assert OffsetMap(text, "byte")(offset) == len(text[:offset].encode())


@pytest.mark.parametrize("text", TEXTS)
def test_encoded_text_cut_at_mapped_offsets_is_the_span(text: str) -> None:
    whole = f"{FAMILY} {text}!"
    start, end = len(FAMILY) + 1, len(FAMILY) + 1 + len(text)
    units, in_bytes = OffsetMap(whole, "utf16"), OffsetMap(whole, "byte")
    assert whole.encode("utf-16-le")[2 * units(start) : 2 * units(end)].decode("utf-16-le") == text
    assert whole.encode()[in_bytes(start) : in_bytes(end)].decode() == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.data())
def test_widening_never_narrows(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    left, right = whole_characters(text, start, end)
    assert 0 <= left <= start
    assert end <= right <= len(text)
