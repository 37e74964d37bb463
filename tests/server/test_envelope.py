"""Answers as bytes: ASCII JSON whatever is in them, and never a NaN."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixrack_server.envelope import to_json

# "null" in a text, nulls, surrogates and the line ends of Unicode take the slower way and must look the same.
TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(["null", "a\ud800b", "\u2028", "\x85", "é"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)


@given(VALUES)
def test_what_is_written_is_what_is_read(document: Any) -> None:
    written = to_json(document)
    assert json.loads(written) == document
    assert written.isascii()
    assert len(written.splitlines()) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"outputs": [{"label": "null", "score": value}]})
