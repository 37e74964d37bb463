"""Pure functions from token ids to rows: pair layout, truncation, windows. The same in training and in serving."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from prefixrack_adapters.rows import Row

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class PairLayout:
    """Special tokens of a backbone: `start A single_end` for one text, `start A middle B end` for a pair."""

    start: tuple[int, ...]
    middle: tuple[int, ...]
    end: tuple[int, ...]
    single_end: tuple[int, ...]
    second_segment: int

    @property
    def num_single(self) -> int:
        return len(self.start) + len(self.single_end)

    @property
    def num_pair(self) -> int:
        return len(self.start) + len(self.middle) + len(self.end)

    def single_row(self, ids: Ids, first_position: int) -> Row:
        tokens = (*self.start, *ids, *self.single_end)
        return Row(tokens, (0,) * len(tokens), first_position)

    def pair_row(self, first: Ids, second: Ids, first_position: int, segments: bool = True) -> Row:
        """`segments` False puts every token into segment 0, as tools that drop token_type_ids trained."""
        head = (*self.start, *first, *self.middle)
        tail = (*second, *self.end)
        second_segment = self.second_segment if segments else 0
        return Row((*head, *tail), (0,) * len(head) + (second_segment,) * len(tail), first_position)


def longest_first(first_len: int, second_len: int, room: int) -> tuple[int, int]:
    """Lengths kept of a pair that must fit into `room` tokens: only the longer side is cut while that is enough.

    Where both are cut, an odd token stays with the longer side, and with the second where both are equally long. This
    is `longest_first` of the Hugging Face tokenizers library (0.10 to 0.23 alike), which training tools cut with; the
    Python tokenizers of transformers keep an odd token with the first.
    """
    room = max(0, room)
    if first_len + second_len <= room:
        return first_len, second_len
    shorter = min(first_len, second_len, room // 2)
    return (shorter, room - shorter) if first_len <= second_len else (room - shorter, shorter)


def windows(num_tokens: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Ranges of at most `room` tokens that cover 0..num_tokens, neighbours sharing `overlap` tokens.

    The overlap is held to half of the room: one that fills it would give nearly as many windows as tokens.
    """
    step = room - min(overlap, room // 2)
    ranges = [(0, min(room, num_tokens))]
    while ranges[-1][1] < num_tokens:
        start = ranges[-1][0] + step
        ranges.append((start, min(start + room, num_tokens)))
    return ranges


def best_window(position: int, ranges: Sequence[tuple[int, int]]) -> int:
    """The window in which a token has most context: the larger of its smaller margins; the first on a tie."""
    # Only windows that hold the token can win, and they are neighbours: a long text has thousands of others.
    first = bisect_right(ranges, position, key=lambda bounds: bounds[1])
    last = bisect_right(ranges, position, key=lambda bounds: bounds[0])
    return max(range(first, last), key=lambda index: _margin(position, ranges[index]))


def _margin(position: int, bounds: tuple[int, int]) -> int:
    return min(position - bounds[0], bounds[1] - 1 - position)
