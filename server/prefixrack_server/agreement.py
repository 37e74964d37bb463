"""Agreement: whether two versions decided the same. Knows outputs as JSON; no adapter and no engine.

Scores differ between any two versions; what a caller acts upon is the decision: labels, spans, answers, choices.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any, Final

NUMBER_TOLERANCE: Final = 0.01
MIN_COSINE: Final = 0.99


def agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two outputs for one input say the same. An error agrees with the same error."""
    if "embedding" in one and "embedding" in other:
        return _cosine(one["embedding"], other["embedding"]) >= MIN_COSINE
    if "value" in one and "value" in other:
        return math.isclose(one["value"], other["value"], rel_tol=NUMBER_TOLERANCE, abs_tol=NUMBER_TOLERANCE)
    return bool(decision_of(one) == decision_of(other))


def drift(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest difference of a score that both outputs give; of embeddings 1 minus the cosine.

    What only one of them names (another span, another answer) is a matter of `agree`.
    """
    if "embedding" in one and "embedding" in other:
        return 1.0 - _cosine(one["embedding"], other["embedding"])
    if "value" in one and "value" in other:
        return float(abs(one["value"] - other["value"]))
    scores = [scores_of(output) for output in (one, other)]
    return max((abs(scores[0][key] - scores[1][key]) for key in scores[0].keys() & scores[1].keys()), default=0.0)


def scores_of(output: Mapping[str, Any]) -> dict[Any, float]:
    """Every score of an output, by what it is of."""
    scores: dict[Any, float] = {}
    for index, entry in enumerate(output.get("scores") or []):
        if isinstance(entry, Mapping):
            scores["label", entry["label"]] = entry["score"]
        else:
            scores["choice", index] = entry
    for span in output.get("spans", ()):
        scores["span", span["start"], span["end"], span["label"]] = span["score"]
    for answer in output.get("answers", ()):
        scores["answer", answer["start"], answer["end"]] = answer["score"]
    if output.get("no_answer_score") is not None:
        scores["no answer",] = output["no_answer_score"]
    return scores


def decision_of(output: Mapping[str, Any]) -> Any:
    """What an output decided, without scores."""
    if "error" in output:
        return "error", output["error"].get("code")
    if "labels" in output:
        return "labels", sorted(label["label"] for label in output["labels"])
    if "spans" in output:
        return "spans", sorted((span["start"], span["end"], span["label"]) for span in output["spans"])
    if "answer" in output:
        answer = output["answer"]
        return "answer", None if answer is None else (answer["start"], answer["end"])
    for field in ("label", "choice"):
        if field in output:
            return field, output[field]
    return "other", None


def _cosine(one: list[float], other: list[float]) -> float:
    if len(one) != len(other):
        return 0.0
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(map(operator.mul, one, other)) / lengths if lengths else 0.0
