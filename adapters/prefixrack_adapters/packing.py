"""Packing: rows to the tensors of one forward pass, and hidden states back to rows. Knows no adapters, no attention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, count
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prefixrack_adapters.families.base import Family
from prefixrack_adapters.heads import MEANS, Gather, Head
from prefixrack_adapters.rows import Row
from prefixrack_adapters.transfer import to_device


def packs_of(rows: Sequence[Row], order: Sequence[int], max_pack_tokens: int) -> Iterator[list[int]]:
    """Indices of rows, in the order given, cut into packs of at most `max_pack_tokens`; a longer row goes alone."""
    pack: list[int] = []
    num_tokens = 0
    for index in order:
        if pack and num_tokens + len(rows[index]) > max_pack_tokens:
            yield pack
            pack, num_tokens = [], 0
        pack.append(index)
        num_tokens += len(rows[index])
    if pack:
        yield pack


class Prompt(NamedTuple):
    """A soft prompt [prompt_len, e] on the backbone's device. "twice": the words are embedded before it joins them."""

    vectors: Tensor
    embedding: Literal["once", "twice"]


class PackTokens(NamedTuple):
    """ids and segments [T]; positions [T], or [2, T] where rows have two dimensions of them."""

    ids: Tensor
    segments: Tensor
    positions: Tensor


class RowSpan(NamedTuple):
    """Where a row lies in the pack: its prompt first, then its tokens."""

    start: int
    prompt_len: int
    num_tokens: int

    @property
    def first_token(self) -> int:
        return self.start + self.prompt_len

    @property
    def end(self) -> int:
        return self.first_token + self.num_tokens


def pack_tokens(rows: Sequence[Row], device: str) -> PackTokens:
    """Rows end to end, moved to the device in one copy."""
    ids, segments, *positions = to_device(token_array(rows), torch.device(device))
    return PackTokens(ids, segments, positions[0] if len(positions) == 1 else torch.stack(positions))


def token_array(rows: Sequence[Row]) -> NDArray[np.int64]:
    """[2 + num_dimensions, T] int64: token ids, segments, and positions in one dimension or two."""
    lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(row.token_ids for row in rows), dtype=np.int64, count=total)
    segments = np.fromiter(chain.from_iterable(row.segment_ids for row in rows), dtype=np.int64, count=total)
    num_dimensions = max((len(row.position_ids) for row in rows), default=0) or 1
    if num_dimensions == 1 and not any(row.position_ids for row in rows):
        firsts = np.fromiter((row.first_position for row in rows), dtype=np.int64, count=len(rows))
        starts = lengths.cumsum() - lengths
        return np.stack((ids, segments, np.arange(total) + np.repeat(firsts - starts, lengths)))
    positions = [
        np.fromiter(chain.from_iterable(row_positions(row, index) for row in rows), dtype=np.int64, count=total)
        for index in range(num_dimensions)
    ]
    return np.stack((ids, segments, *positions))


def row_positions(row: Row, dimension: int) -> Sequence[int]:
    if row.position_ids:
        return row.position_ids[dimension]
    return range(row.first_position, row.first_position + len(row)) if dimension == 0 else (0,) * len(row)


def with_positions(rows: Sequence[Row], uncounted: int | None) -> Sequence[Row]:
    """Rows that hold a token which takes no position (`BackboneSpec.uncounted_token`) say so; the others stay."""
    if uncounted is None or not any(uncounted in row.token_ids for row in rows):
        return rows
    return [replace(row, position_ids=(_counted(row, uncounted),)) for row in rows]


def _counted(row: Row, uncounted: int) -> tuple[int, ...]:
    """The token itself stands at its own number."""
    positions = count(row.first_position)
    return tuple(uncounted if token == uncounted else next(positions) for token in row.token_ids)


def row_spans(rows: Sequence[Row], prompts: Sequence[Prompt | None]) -> list[RowSpan]:
    prompt_lens = [0 if prompt is None else len(prompt.vectors) for prompt in prompts]
    sizes = [prompt_len + len(row) for prompt_len, row in zip(prompt_lens, rows, strict=True)]
    starts = accumulate(sizes, initial=0)
    return [RowSpan(start, prompt_len, len(row)) for start, prompt_len, row in zip(starts, prompt_lens, rows)]  # noqa: B905 - one start more


def with_prompts(
    family: Family, words: Tensor, tokens: PackTokens, rows: Sequence[Row], prompts: Sequence[Prompt | None]
) -> tuple[Tensor, PackTokens]:
    """Put soft prompts before their rows: new word vectors, segments and positions. The ids stay without them.

    One table for all rows goes to the device, and one call moves all vectors, however many rows and prompts there are.
    """
    is_twice = [prompt is not None and prompt.embedding == "twice" for prompt in prompts]
    if any(is_twice):
        chosen = np.repeat(is_twice, [len(row) for row in rows])[:, None]
        embedded = family.embed(words, tokens.segments, tokens.positions)
        words = torch.where(to_device(chosen, words.device), embedded, words)
    distinct = {id(prompt.vectors): prompt.vectors for prompt in prompts if prompt is not None}
    sizes = [len(vectors) for vectors in distinct.values()]
    firsts = dict(zip(distinct, accumulate(sizes, initial=0)))  # noqa: B905 - one more: where the words begin
    table = _prompt_table(rows, prompts, is_twice, firsts, sum(sizes), tokens.positions.dim())
    places, segments, *positions = to_device(table, words.device)
    vectors = torch.cat((*distinct.values(), words)).index_select(0, places)
    is_flat = tokens.positions.dim() == 1
    return vectors, PackTokens(tokens.ids, segments, positions[0] if is_flat else torch.stack(positions))


def _prompt_table(
    rows: Sequence[Row],
    prompts: Sequence[Prompt | None],
    is_twice: Sequence[bool],
    firsts: Mapping[int, int],
    next_word: int,
    num_dimensions: int,
) -> NDArray[np.int64]:
    """[2 + num_dimensions, T]: each vector's place among all prompts and words, its segment, its positions."""
    columns: list[list[int]] = [[] for _ in range(2 + num_dimensions)]
    for row, prompt, is_embedded in zip(rows, prompts, is_twice, strict=True):
        prompt_len = 0 if prompt is None else len(prompt.vectors)
        first = 0 if prompt is None else firsts[id(prompt.vectors)]
        columns[0] += (*range(first, first + prompt_len), *range(next_word, next_word + len(row)))
        columns[1] += (0,) * prompt_len + ((0,) * len(row) if is_embedded else row.segment_ids)
        for dimension, column in enumerate(columns[2:]):
            column += _positions_behind(prompt_len, row, dimension, num_dimensions)
        next_word += len(row)
    return np.array(columns, dtype=np.int64)


def _positions_behind(prompt_len: int, row: Row, dimension: int, num_dimensions: int) -> Sequence[int]:
    """Of the prompt and the row. Vectors have no ids, so behind a prompt every position counts."""
    own = row_positions(row, dimension)
    if not prompt_len:
        return own
    if num_dimensions == 1:
        return range(row.first_position, row.first_position + prompt_len + len(row))
    if dimension == 0:
        return (*range(own[0], own[0] + prompt_len), *(position + prompt_len for position in own))
    return (*(0,) * prompt_len, *own)


def gather_states(hidden: Tensor, spans: Sequence[RowSpan], head: Head | None) -> tuple[Tensor, list[int]]:
    """The states that a head reads, rows end to end, and how many belong to each row. None reads every token's."""
    return gather_by(hidden, spans, "every_token" if head is None else head.gather)


def gather_by(hidden: Tensor, spans: Sequence[RowSpan], gather: Gather) -> tuple[Tensor, list[int]]:
    if gather in MEANS:
        starts = [span.first_token if gather == "mean_tokens" else span.start for span in spans]
        parts = [hidden[start : span.end] for start, span in zip(starts, spans, strict=True)]
        return torch.stack([part.float().mean(dim=0) for part in parts]), [1] * len(spans)
    picks = [picked_tokens(span, gather) for span in spans]
    return picked(hidden, chain.from_iterable(picks)), [len(pick) for pick in picks]


def picked(states: Tensor, places: Iterable[int]) -> Tensor:
    """[n, width]: the states at these places."""
    return states.index_select(0, to_device(np.fromiter(places, dtype=np.int64), states.device))


def picked_tokens(span: RowSpan, gather: Gather) -> range:
    """Which places of the pack a head reads of a row; `gather` is any but a mean."""
    match gather:
        case "first_token":
            return range(span.first_token, span.first_token + 1)
        case "first_position":
            return range(span.start, span.start + 1)
        case "last_token":
            return range(span.end - 1, span.end)
    offset = 0 if gather == "every_token" else -span.prompt_len
    return range(span.first_token + offset, span.end + offset)
