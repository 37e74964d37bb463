"""What a head's outputs mean where no config tells more than the task: labels and decoding. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.importers.base import Source, labels_or_ask
from prefixrack_adapters.manifest import OUTSIDE, DecodingSpec, Tagging

UNNAMED_TASKS = ("question-answering", "multiple-choice", "text-embedding")


def answers(
    source: Source,
    task: str,
    num_outputs: int,
    id2label: Mapping[Any, str] | None = None,
    is_multi_label: bool = False,
) -> tuple[list[str], DecodingSpec]:
    """Labels and decoding of a head: one output is a regression, for the other tasks outputs have no names.

    Raises InvalidRequest where --labels is needed, or where there is nothing for it to name.
    """
    is_regression = task == "text-classification" and num_outputs == 1 and not is_multi_label
    if is_regression or task in UNNAMED_TASKS:
        if source.labels:
            reason = "has one output, a regression" if is_regression else f"is for {task!r}"
            raise InvalidRequest(
                f"--labels names {len(source.labels)} labels, but {source.folder} {reason}, whose outputs have no "
                "names: leave it out"
            )
        problem = "regression" if is_regression else "single_label"
        no_answer = bool(source.no_answer) and task == "question-answering"
        return [], DecodingSpec(problem=problem, no_answer=no_answer)
    labels = labels_or_ask(source, num_outputs, id2label)
    if task == "token-classification":
        return labels, DecodingSpec(tagging=tagging_of(labels))
    return labels, DecodingSpec(problem="multi_label" if is_multi_label else "single_label")


def tagging_of(labels: Sequence[str]) -> Tagging:
    marks = {label.partition("-")[0] for label in labels if label != OUTSIDE}
    return "bioes" if marks & {"E", "S"} else "bio"
