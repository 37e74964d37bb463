"""Entity ranking (ReCoRD): the entity that fills the gap best, by the raw second logit as the original code ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from prefixrack.types import EntityOutput, LabelScore, Parameters
from prefixrack_adapters.tasks.base import softmax
from prefixrack_adapters.tasks.candidate_classification import CandidateClassification

FITS = 1  # index of the label that says that an entity belongs into the gap


class EntityRanking(CandidateClassification):
    def answer(
        self, names: Sequence[str], logits: NDArray[Any], parameters: Parameters, common: dict[str, Any]
    ) -> EntityOutput:
        """Scores are the softmax over the entities, so that they rank as the logits do. A tie: the later string."""
        fits = logits[:, FITS]
        order = sorted(range(len(names)), key=lambda index: (fits[index], names[index]), reverse=True)
        scores = softmax(fits)
        ranked = [LabelScore(label=names[index], score=float(scores[index])) for index in order]
        return EntityOutput(
            entity=ranked[0].label, score=ranked[0].score, entities=ranked[: parameters.top_k], **common
        )
