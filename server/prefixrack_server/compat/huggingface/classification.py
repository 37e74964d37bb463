"""The API task text-classification: labels with scores, best first. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.tasks.base import sigmoid, softmax
from prefixrack_server.compat.huggingface.plan import Options, Outputs, Plan, many
from prefixrack_server.envelope import parse_fields

FUNCTIONS: Final[Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda logits: logits,
}
# transformers' own name of the one output of a head without labels
VALUE_LABEL: Final = "LABEL_0"


class ClassificationOptions(Options):
    top_k: Annotated[int, Field(ge=1)] | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


def plan_classification(inputs: Any, parameters: Mapping[str, Any], manifest: Manifest) -> Plan:
    """Without `function_to_apply` the scores are those of the native route."""
    options = parse_fields(ClassificationOptions, parameters)
    function = options.function_to_apply

    def answer(outputs: Outputs) -> list[list[dict[str, Any]]]:
        return [_scores(output, manifest, function)[: options.top_k] for output in outputs]

    return Plan(many(inputs), Parameters(logits=function is not None), answer)


def _scores(output: Mapping[str, Any], manifest: Manifest, function: str | None) -> list[dict[str, Any]]:
    if function is not None:
        labels = manifest.labels or [VALUE_LABEL]
        return ranked(labels, FUNCTIONS[function](np.array(output["logits"])).tolist())
    if "value" in output:
        return ranked(manifest.labels or [VALUE_LABEL], [output["value"]])
    return list(output["scores"])


def ranked(labels: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """Best first; a tie keeps the order of the labels."""
    entries = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
    return sorted(entries, key=lambda entry: -float(entry["score"]))
