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
