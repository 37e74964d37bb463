"""Reading comprehension with several right answers: every answer is judged for itself, beside its question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefixrack_adapters.formats.base import Format
from prefixrack_adapters.formats.candidates import MAX_CANDIDATES, Candidates
from prefixrack_adapters.formats.fields import Field, Texts


def judge_each(fields: Mapping[str, Any]) -> Candidates:
    passage, question, answers = fields["passage"], fields["question"], fields["answers"]
    return Candidates(answers, tuple({"text": passage, "text_pair": f"{question} {answer}"} for answer in answers))


MULTIRC = Format(
    "multirc",
    "text-classification",
    (Field("passage", aliases=("paragraph",)), Field("question"), Field("answers", Texts(1, MAX_CANDIDATES))),
    judge_each,
    {"passage": "Ann and Bo left early.", "question": "Who left early?", "answers": ["Ann", "Cy", "Bo and Ann"]},
    is_single_label=True,
)
