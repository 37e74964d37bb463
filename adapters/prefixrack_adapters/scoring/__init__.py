"""Scoring: what an adapter's outputs are worth beside gold targets, one module per kind of answer.

Points come from `metrics`, what each example adds to them from here (`tallies`); a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.scoring.answers import judge_answers
from prefixrack_adapters.scoring.base import ClassScore, Evaluation, Facts, Outputs
from prefixrack_adapters.scoring.candidates import judge_entities, judge_options
from prefixrack_adapters.scoring.embeddings import judge_embeddings
from prefixrack_adapters.scoring.labels import judge_choices, judge_label, judge_labels
from prefixrack_adapters.scoring.numbers import judge_numbers
from prefixrack_adapters.scoring.spans import judge_spans
from prefixrack_adapters.training.data import CandidateLabels, Example

__all__ = ["ClassScore", "Evaluation", "Facts", "Outputs", "inputs_of", "judge"]

Judge = Callable[[Facts, Outputs, Sequence[Example]], Evaluation]
JUDGES: Mapping[str, Judge] = {
    "single_label": judge_label,
    "multi_label": judge_labels,
    "regression": judge_numbers,
    "token-classification": judge_spans,
    "question-answering": judge_answers,
    "multiple-choice": judge_choices,
    "text-embedding": judge_embeddings,
    "multirc": judge_options,
    "record": judge_entities,
}


def inputs_of(facts: Facts, examples: Sequence[Example]) -> list[Any]:
    """What is predicted: each example's input; of a pair of texts to embed, both."""
    if facts.task == "text-embedding":
        return [text for example in examples for text in example.input]
    return [example.input for example in examples]


def judge(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    """Scores of `outputs`, which answer `inputs_of` the examples in order. Raises InvalidRequest for no example."""
    if not examples:
        raise InvalidRequest("there is no example to score: at least one is needed")
    return JUDGES[kind_of(facts, examples)](facts, outputs, examples)


def kind_of(facts: Facts, examples: Sequence[Example]) -> str:
    """Which judge: the format's for labels of candidates, the problem's for texts, else the task's."""
    if isinstance(examples[0].target, CandidateLabels):
        return facts.input_format
    return facts.problem if facts.task == "text-classification" else facts.task
