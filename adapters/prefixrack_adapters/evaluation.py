"""Evaluation: an adapter's answers against gold targets, through the same prediction path that serves."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefixrack.errors import InvalidRequest
from prefixrack.types import FailedOutput, Output, Parameters, QuestionAnsweringOutput
from prefixrack_adapters import metrics
from prefixrack_adapters.prediction import predict
from prefixrack_adapters.training.data import Example

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone

Advance = Callable[[int], None]
TINY = sys.float_info.min


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`main` names the score that decides; inputs that failed count as wrong answers and in `num_failed`."""

    main: str
    scores: dict[str, float]
    num_examples: int
    num_failed: int

    @property
    def value(self) -> float:
        return self.scores[self.main]


def evaluate(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_pack_tokens: int = 4096,
    advance: Advance | None = None,
) -> Evaluation:
    """Score an adapter. Overlong inputs are cut as in training, never refused. Raises InvalidRequest for vectors."""
    task, problem = adapter.manifest.task, adapter.manifest.decoding.problem
    if task == "text-embedding":
        raise InvalidRequest(
            "task 'text-embedding' has no score here: compare the vectors of `predict` on your own data"
        )
    overlong = Parameters(overlong="truncate") if task in ("text-classification", "multiple-choice") else None
    inputs = [example.input for example in examples]
    outputs = predict(backbone, adapter, inputs, overlong, max_pack_tokens, advance)
    answers = [_answer(task, problem, output, example) for output, example in zip(outputs, examples, strict=True)]
    gold = [example.target for example in examples]
    scores = _scores(task, problem, answers, gold, adapter.manifest.labels)
    no_answer = adapter.manifest.decoding.no_answer
    if no_answer:
        scores |= _null_scores(outputs, gold)
    return Evaluation(
        main=metrics.main_metric(task, problem, no_answer),
        scores=scores,
        num_examples=len(examples),
        num_failed=sum(isinstance(output, FailedOutput) for output in outputs),
    )


def _answer(task: str, problem: str, output: Output | FailedOutput, example: Example) -> Any:
    """What the metric compares: a label, labels, a number, tags, an answer's text, a choice."""
    if isinstance(output, FailedOutput):
        return _wrong_answer(task, problem, example)
    shown: Any = output
    match task, problem:
        case "token-classification", _:
            return shown.tags
        case "question-answering", _:
            return shown.answer.text if shown.answer is not None else ""
        case "multiple-choice", _:
            return shown.choice
        case _, "regression":
            return shown.value
        case _, "multi_label":
            return [entry.label for entry in shown.labels]
    return shown.label


def _null_scores(outputs: Sequence[Output | FailedOutput], gold: Sequence[Any]) -> dict[str, float]:
    """Both scores are softmaxes over one set, so the difference of their logarithms is that of the logits."""
    shown = [output if isinstance(output, QuestionAnsweringOutput) and output.answers else None for output in outputs]
    found = [output.answers[0].text if output is not None else "" for output in shown]
    margins = [
        math.log(max(output.no_answer_score, TINY)) - math.log(max(output.answers[0].score, TINY))
        if output is not None
        else math.inf
        for output in shown
    ]
    return metrics.best_null_threshold(found, margins, gold)


def _wrong_answer(task: str, problem: str, example: Example) -> Any:
    if task == "token-classification":
        return ["O"] * len(example.input["tokens"])
    if task == "text-classification":
        return {"multi_label": [], "regression": 0.0}.get(problem, "")
    return -1 if task == "multiple-choice" else ""


def _scores(task: str, problem: str, answers: Any, gold: Any, labels: Sequence[str]) -> dict[str, float]:
    match task, problem:
        case "token-classification", _:
            return metrics.spans(answers, gold)
        case "question-answering", _:
            return metrics.answers(answers, gold)
        case "multiple-choice", _:
            return metrics.choices(answers, gold)
        case _, "regression":
            return metrics.regression(answers, gold)
        case _, "multi_label":
            return metrics.multi_label(answers, gold, labels)
    return metrics.single_label(answers, gold)
