"""Rows from token ids that another tool made: for comparing outputs with it, whatever its tokeniser does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    segments = tuple(int(segment) for segment in fields.get("token_type_ids") or (0,) * len(token_ids))
    if not manifest.tokenization.segments or spec.num_segments == 0:
        segments = (0,) * len(token_ids)
    prefix = manifest.prefix
    first = spec.first_position(prefix.prefix_len, prefix.positions)
    positions = tuple(tuple(int(one) for one in dimension) for dimension in fields.get("position_ids") or ())
    return Row(token_ids, segments, first, positions, fields.get("context_length"))


def with_answer(fields: Mapping[str, Any]) -> tuple[Mapping[str, Any], range | None]:
    """A cloze row made whole, and which of its tokens predict the answer's; None where nothing is to be filled in.

    GLM fills a blank from left to right: behind the `context_length` tokens that see each other comes the token that
    starts a piece, then the answer, and each predicts the next. `input_ids` may end with that first token, or go on
    with the answer; what is missing is appended, with positions that stay at the blank and count inside of it.
    Raises InvalidRequest.
    """
    if "answer_ids" not in fields:
        return fields, None
    answer, token_ids = list(fields["answer_ids"]), list(fields["input_ids"])
    start = fields.get("context_length")
    if not answer or not isinstance(start, int) or not 0 < start < len(token_ids):
        raise InvalidRequest(
            f"a row with answer_ids has context_length {start!r} and {len(token_ids)} input_ids; at least one answer "
            "id is needed, and input_ids go beyond the context by the token that starts the piece"
        )
    predicting = range(start, start + len(answer))
    known = len(token_ids) - start - 1
    missing = answer[known:-1] if known < len(answer) - 1 else []
    whole = dict(fields) | {"input_ids": token_ids + missing}
    if fields.get("position_ids"):
        places, blocks = (list(dimension) for dimension in fields["position_ids"])
        steps = range(1, len(whole["input_ids"]) - len(places) + 1)
        whole["position_ids"] = [places + [places[-1] for _ in steps], blocks + [blocks[-1] + step for step in steps]]
    del whole["answer_ids"]
    return whole, predicting
