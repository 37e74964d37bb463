"""Answers as bytes: ASCII JSON whatever is in them, and never a NaN."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from prefixrack.errors import InvalidRequest
from prefixrack_server.envelope import parse_fields, parse_parameters, to_json

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


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"top_k": 0}, "parameter 'top_k': Input should be greater than or equal to 1; seen 0"),
        (
            {"top_k": 1.5},
            "parameter 'top_k': Input should be a valid integer, got a number with a fractional part; seen 1.5",
        ),
        ({"logits": None}, "parameter 'logits': Input should be a valid boolean; seen null"),
        ({"top_k": "many"}, ", unable to parse string as an integer; seen a JSON string"),
        ({"threshold": [0.5]}, "parameter 'threshold': Input should be a valid number; seen a JSON list"),
        (
            {"overlong": "wndow"},
            "parameter 'overlong': Input should be 'window', 'error' or 'truncate'; seen \"wndow\"",
        ),
        ({"overlong": "ü" * 99}, '; seen "\\u00fc\\u00fc'),
        ({"overlong": "\ud800"}, "unable to parse raw data as a unicode string; seen a JSON string"),
        ({"overlong": {"a": 1}}, "Input should be 'window', 'error' or 'truncate'; seen a JSON object"),
    ],
)
def test_a_wrong_parameter_is_told_with_its_value(parameters: Any, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_parameters(parameters)
    assert detail in caught.value.detail
    assert caught.value.detail.isascii()
    assert len(caught.value.detail) < 140


class Letter(BaseModel):
    text: str = Field(max_length=3)
    stamps: int

    @field_validator("stamps")
    @classmethod
    def _check_stamps(cls, stamps: int) -> int:
        if stamps < 2:
            raise ValueError("one stamp is too few")
        return stamps


def test_a_field_that_may_be_an_input_is_not_repeated() -> None:
    for document, detail in (
        (
            {"text": "secret", "stamps": 2},
            "parameter 'text': String should have at most 3 characters; seen a JSON string",
        ),
        ({"stamps": 2}, "parameter 'text': Field required"),
        ({"text": "abc", "stamps": 1}, "parameter 'stamps': one stamp is too few; seen 1"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            parse_fields(Letter, document)
        assert caught.value.detail == detail
