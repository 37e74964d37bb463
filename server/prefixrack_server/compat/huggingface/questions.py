"""The API task question-answering: the best answer, or several. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.compat.huggingface.plan import Options, Outputs, Plan, many, one_or_many
from prefixrack_server.envelope import parse_fields

Answer = dict[str, Any]


class QuestionOptions(Options):
    """`handle_impossible_answer` left out: an adapter that learnt to say so may say that there is no answer."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    max_answer_len: Annotated[int, Field(ge=1, le=512)] | None = None
    handle_impossible_answer: bool | None = None


def plan_questions(inputs: Any, parameters: Mapping[str, Any], manifest: Manifest) -> Plan:
    options = parse_fields(QuestionOptions, parameters)
    wanted: dict[str, Any] = {}
    if options.max_answer_len is not None:
        wanted["max_answer_len"] = options.max_answer_len
    if options.top_k > manifest.decoding.n_best:
        wanted["n_best"] = options.top_k
    may_be_empty = manifest.decoding.no_answer and options.handle_impossible_answer is not False

    def answer(output: Mapping[str, Any]) -> Answer | list[Answer]:
        if options.top_k == 1:
            return best_answer(output, may_be_empty)
        return best_answers(output, may_be_empty)[: options.top_k]

    def answers(outputs: Outputs) -> Any:
        return one_or_many(inputs, [answer(output) for output in outputs])

    return Plan(many(inputs), Parameters(**wanted), answers)


def best_answer(output: Mapping[str, Any], may_be_empty: bool) -> Answer:
    """By the adapter's own threshold, which need not be the higher score."""
    if may_be_empty and output["answer"] is None:
        return _no_answer(output)
    spans = output["answers"]
    return _answer(spans[0]) if spans else _no_answer(output)


def best_answers(output: Mapping[str, Any], may_be_empty: bool) -> list[Answer]:
    """By score."""
    found = [_answer(span) for span in output["answers"]]
    if may_be_empty:
        found.append(_no_answer(output))
    return sorted(found, key=lambda answer: -float(answer["score"]))


def _answer(span: Mapping[str, Any]) -> Answer:
    return {"answer": span["text"], "score": span["score"], "start": span["start"], "end": span["end"]}


def _no_answer(output: Mapping[str, Any]) -> Answer:
    """As transformers says it: the empty text at the beginning."""
    return {"answer": "", "score": output["no_answer_score"], "start": 0, "end": 0}
