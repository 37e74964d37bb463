"""Rows from token ids that another tool made: for comparing outputs with it, whatever its tokeniser does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec

FIELDS = ("input_ids", "token_type_ids", "position_ids", "context_length", "answer_ids")


def token_row(manifest: Manifest, spec: BackboneSpec, fields: Mapping[str, Any]) -> Row:
    """A row of `input_ids`, with `token_type_ids` where the tool gave any. Raises InvalidRequest.

    Positions follow from the adapter's rule, so `position_ids` is for GLM (2021) only: [2, num_tokens].
    """
    unknown = [name for name in fields if name not in FIELDS]
    if unknown or "input_ids" not in fields:
        raise InvalidRequest(f"a row has the fields {list(fields)}; input_ids is needed, allowed: {', '.join(FIELDS)}")
    token_ids = tuple(int(token) for token in fields["input_ids"])
    segments = tuple(int(segment) for segment in _given(fields, "token_type_ids", (0,) * len(token_ids)))
    if not manifest.tokenization.segments or spec.num_segments == 0:
        segments = (0,) * len(token_ids)
    prefix = manifest.prefix
    first = spec.first_position(prefix.prefix_len, prefix.positions)
    positions = tuple(tuple(int(one) for one in dimension) for dimension in _given(fields, "position_ids", ()))
    context = fields.get("context_length")
    return Row(token_ids, segments, first, positions, None if context is None else int(context))


def with_answer(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], range | None]:
    """A cloze row made whole, and which of its tokens predict the answer's; None where nothing is to be filled in.

    GLM fills a blank from left to right: behind the `context_length` tokens that see each other comes the token that
    starts a piece, then the answer, and each predicts the next. `input_ids` may end with that first token, whose id
    only the tokeniser knows, or go on with the answer; what is missing is appended. `position_ids` tell which blank
    it is: for `input_ids` as given (what is appended stays at the blank and counts inside of it), or for the whole.
    Raises InvalidRequest.
    """
    if "answer_ids" not in fields:
        return fields, None
    answer, token_ids = list(fields["answer_ids"]), list(fields["input_ids"])
    start = fields.get("context_length")
    if not answer or not isinstance(start, int | np.integer) or not 0 < start < len(token_ids):
        raise InvalidRequest(
            f"a row with answer_ids has context_length {start!r} and {len(token_ids)} input_ids; at least one answer "
            "id is needed, and input_ids go beyond the context by the token that starts the piece"
        )
    predicting = range(int(start), int(start) + len(answer))
    missing = answer[len(token_ids) - start - 1 : -1]
    whole = dict(fields) | {"input_ids": token_ids + missing}
    whole["position_ids"] = _whole_positions(fields, len(token_ids), len(missing))
    del whole["answer_ids"]
    return whole, predicting


def _given(fields: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field that is null counts as absent; one that is an array has no truth value."""
    value = fields.get(name)
    return default if value is None else value


def _whole_positions(fields: Mapping[str, Any], num_given: int, num_missing: int) -> list[list[int]]:
    """Both dimensions for the given tokens and for those that are appended. Raises InvalidRequest."""
    given = [list(dimension) for dimension in _given(fields, "position_ids", ())]
    sizes = [len(dimension) for dimension in given]
    if sizes == [num_given + num_missing] * 2:
        return given
    if sizes != [num_given] * 2:
        raise InvalidRequest(
            f"a row with answer_ids has position_ids with dimensions of {sizes} for {num_given} input_ids: two "
            "dimensions of one position per token are needed, since they say which blank is filled"
        )
    places, blocks = given
    steps = range(1, num_missing + 1)
    return [places + [places[-1] for _ in steps], blocks + [blocks[-1] + step for step in steps]]
