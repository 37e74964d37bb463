"""Answer judging (MultiRC): every answer to a question gets a label of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from prefixrack.types import JudgedAnswer, JudgedAnswersOutput, Parameters
from prefixrack_adapters.tasks.base import softmax
from prefixrack_adapters.tasks.candidate_classification import CandidateClassification


class AnswerJudging(CandidateClassification):
    def answer(
        self, names: Sequence[str], logits: NDArray[Any], parameters: Parameters, common: dict[str, Any]
    ) -> JudgedAnswersOutput:
        judged = []
        for name, values in zip(names, logits, strict=True):
            scores = self.pairs.ranked(softmax(values), parameters.top_k)
            judged.append(JudgedAnswer(text=name, label=scores[0].label, score=scores[0].score, scores=scores))
        return JudgedAnswersOutput(judged=judged, **common)
