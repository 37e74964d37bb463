from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from prefixrack_adapters.layout import PairLayout, best_window, longest_first, windows
from prefixrack_adapters.rows import Row

SINGLE = PairLayout(start=(1,), middle=(2,), end=(2,), single_end=(2,), second_segment=1)
DOUBLE = PairLayout(start=(1,), middle=(2, 2), end=(2,), single_end=(2,), second_segment=0)


def cutting_tokenizer() -> Tokenizer:
    """Words a are token 1, words b token 2; no special tokens."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 100))
def test_longest_first_is_that_of_the_library_that_training_tools_use(
    first_len: int, second_len: int, room: int
) -> None:
    tokenizer = cutting_tokenizer()
    tokenizer.enable_truncation(room, strategy="longest_first")
    ids = tokenizer.encode("a " * first_len, "b " * second_len).ids
    assert longest_first(first_len, second_len, room) == (ids.count(1), ids.count(2))


@pytest.mark.parametrize(
    ("first_len", "second_len", "kept"), [(20, 20, (4, 5)), (21, 20, (5, 4)), (20, 21, (4, 5)), (5, 6, (4, 5))]
)
def test_an_odd_token_stays_with_the_longer_side(first_len: int, second_len: int, kept: tuple[int, int]) -> None:
    assert longest_first(first_len, second_len, 9) == kept


def test_longest_first_without_any_room_keeps_nothing() -> None:
    assert longest_first(5, 3, -2) == (0, 0)


@given(st.integers(0, 500), st.integers(1, 80), st.integers(0, 200))
def test_windows_cover_all_tokens_within_the_room(num_tokens: int, room: int, overlap: int) -> None:
    ranges = windows(num_tokens, room, overlap)
    covered = {token for start, end in ranges for token in range(start, end)}
    assert covered == set(range(num_tokens))
    assert all(end - start <= room for start, end in ranges)
    assert (ranges[0][0], ranges[-1][1]) == (0, num_tokens)
    for (start, end), (next_start, next_end) in pairwise(ranges):
        assert end - next_start == min(overlap, room // 2)
        assert start < next_start
        assert end < next_end


@given(st.integers(0, 5000), st.integers(1, 400), st.integers(0, 500))
def test_windows_stay_few_whatever_the_overlap(num_tokens: int, room: int, overlap: int) -> None:
    assert len(windows(num_tokens, room, overlap)) <= 2 * math.ceil(num_tokens / room) + 1


@pytest.mark.parametrize("question_len", [1, 40, 100])
def test_questions_of_ordinary_length_keep_the_whole_overlap(question_len: int) -> None:
    (_, end), (start, _), *_ = windows(3000, 384 - SINGLE.num_pair - question_len, 128)
    assert end - start == 128


@given(st.integers(1, 500), st.integers(1, 80), st.integers(0, 200), st.data())
def test_best_window_has_the_most_context(num_tokens: int, room: int, overlap: int, data: st.DataObject) -> None:
    ranges = windows(num_tokens, room, overlap)
    position = data.draw(st.integers(0, num_tokens - 1))
    margins = [min(position - start, end - 1 - position) for start, end in ranges]
    assert best_window(position, ranges) == margins.index(max(margins))


def test_single_row() -> None:
    assert SINGLE.single_row([7, 8], 4) == Row((1, 7, 8, 2), (0, 0, 0, 0), 4)
    assert (SINGLE.num_single, SINGLE.num_pair) == (2, 3)


@pytest.mark.parametrize(
    ("layout", "segments", "tokens", "segment_ids"),
    [
        (SINGLE, True, (1, 7, 2, 8, 9, 2), (0, 0, 0, 1, 1, 1)),
        (SINGLE, False, (1, 7, 2, 8, 9, 2), (0, 0, 0, 0, 0, 0)),
        (DOUBLE, True, (1, 7, 2, 2, 8, 9, 2), (0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_pair_row(layout: PairLayout, segments: bool, tokens: tuple[int, ...], segment_ids: tuple[int, ...]) -> None:
    row = layout.pair_row([7], [8, 9], 0, segments)
    assert row == Row(tokens, segment_ids, 0)
    assert len(row) == layout.num_pair + 3
