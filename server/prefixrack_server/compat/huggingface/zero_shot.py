"""The API task zero-shot-classification, by an adapter for natural language inference. Knows no HTTP.

Each candidate label becomes a hypothesis about the text. As in transformers (`pipelines/zero_shot_classification.py`),
either the labels share one softmax over their entailment logits, or each has its own over contradiction and entailment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from pydantic import Field

from prefixrack.errors import InvalidRequest
from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.tasks.base import softmax
from prefixrack_server.compat.huggingface.classification import ranked
from prefixrack_server.compat.huggingface.plan import Options, Outputs, Plan
from prefixrack_server.envelope import parse_fields

PLACE: Final = "{}"
ENTAILMENT: Final = ("entail",)
CONTRADICTION: Final = ("contra", "not_entail", "not-entail", "not entail", "non_entail", "non-entail")


class ZeroShotOptions(Options):
    candidate_labels: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    multi_label: bool | None = None
    hypothesis_template: str = "This example is {}."


class Columns(NamedTuple):
    """Where an adapter's two labels are."""

    entailment: int
    contradiction: int


def is_zero_shot(parameters: Mapping[str, Any]) -> bool:
    return "candidate_labels" in parameters


def plan_zero_shot(inputs: Any, parameters: Mapping[str, Any], manifest: Manifest) -> Plan:
    """Raises InvalidRequest for an adapter without the two labels."""
    options = parse_fields(ZeroShotOptions, parameters)
    if not isinstance(inputs, str):
        raise InvalidRequest("`inputs` must be one string: send a request for each text")
    if PLACE not in options.hypothesis_template:
        raise InvalidRequest(f"hypothesis_template has no {PLACE} where the label is to stand: add it")
    columns = _columns(manifest)
    hypotheses = [options.hypothesis_template.replace(PLACE, label) for label in options.candidate_labels]

    def answer(outputs: Outputs) -> list[dict[str, Any]]:
        scores = _scores(outputs, columns, bool(options.multi_label))
        return ranked(options.candidate_labels, scores)

    pairs = [{"text": inputs, "text_pair": hypothesis} for hypothesis in hypotheses]
    num_bytes = _num_bytes(inputs) * len(pairs) + sum(map(_num_bytes, hypotheses))
    return Plan(pairs, Parameters(logits=True), answer, num_bytes)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _scores(outputs: Outputs, columns: Columns, multi_label: bool) -> list[float]:
    logits = np.array([output["logits"] for output in outputs])
    if multi_label:
        return [float(row[1]) for row in softmax(logits[:, [columns.contradiction, columns.entailment]])]
    return [float(score) for score in softmax(logits[:, columns.entailment])]


def _columns(manifest: Manifest) -> Columns:
    names = [label.lower() for label in manifest.labels]
    entailment = next((index for index, name in enumerate(names) if name.startswith(ENTAILMENT)), None)
    contradiction = next((index for index, name in enumerate(names) if name.startswith(CONTRADICTION)), None)
    if entailment is None or contradiction is None or manifest.decoding.problem != "single_label":
        raise InvalidRequest(
            f"the adapter {manifest.name!r} has no labels entailment and contradiction: zero-shot classification needs "
            "an adapter for natural language inference"
        )
    return Columns(entailment, contradiction)
