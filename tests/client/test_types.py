"""The wire types as plain data."""

from __future__ import annotations

from prefixrack.types import (
    ClassificationOutput,
    FailedOutput,
    InputError,
    LabelScore,
    QuestionAnsweringOutput,
    output_json,
)


def test_an_output_has_no_null_but_for_an_answer_that_there_is_not() -> None:
    label = ClassificationOutput(label="on", score=1.0, scores=[LabelScore(label="on", score=1.0)])
    scores = [{"label": "on", "score": 1.0}]
    assert output_json(label) == {"truncated": False, "label": "on", "score": 1.0, "scores": scores}
    nothing = QuestionAnsweringOutput(answer=None, no_answer_score=0.9, answers=[])
    assert output_json(nothing) == {"truncated": False, "answer": None, "no_answer_score": 0.9, "answers": []}
    failed = FailedOutput(error=InputError(code="invalid_unicode", message="half a character"))
    assert output_json(failed) == {"error": {"code": "invalid_unicode", "message": "half a character"}}
