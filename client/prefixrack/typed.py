"""From a predict response to the outputs of one task. Pure; knows no HTTP beyond the error that carried a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prefixrack.errors import APIStatusError, UnexpectedTaskError, UnprocessableEntityError
from prefixrack.responses import failed_outputs
from prefixrack.types import (
    ChoiceOutput,
    ClassificationOutput,
    EmbeddingOutput,
    EntityOutput,
    FailedOutput,
    JudgedAnswersOutput,
    MultiLabelOutput,
    PredictResponse,
    QuestionAnsweringOutput,
    RegressionOutput,
    TaskName,
    TokenClassificationOutput,
)

O = TypeVar("O")  # noqa: E741  the output type of a task

Classified = ClassificationOutput | MultiLabelOutput | RegressionOutput | JudgedAnswersOutput | EntityOutput

Many = list[Any] | tuple[Any, ...]
MANY = (list, tuple)  # inputs of these types are many; anything else is one

METHOD_OF_TASK: dict[TaskName, str] = {
    "text-classification": "classify",
    "token-classification": "ner",
    "question-answering": "answer",
    "multiple-choice": "choose",
    "text-embedding": "embed",
}


@dataclass(frozen=True, slots=True)
class TypedTask(Generic[O]):
    """What one typed method expects, and how it hands its outputs out: one for one input, a list for many."""

    task: TaskName

    def unwrap(self, response: PredictResponse, inputs: Any) -> Any:
        if response.task != self.task:
            raise self._unexpected(response)
        if isinstance(inputs, MANY):
            return list(response.outputs)
        (output,) = response.outputs
        if isinstance(output, FailedOutput):
            raise _single_failure(output, None)
        return output

    def unwrap_refusal(self, error: APIStatusError, inputs: Any) -> list[FailedOutput]:
        """Every input failed: a list of failures for a list; for one input, an error with that input's code."""
        failures = failed_outputs(error, len(inputs) if isinstance(inputs, MANY) else 1)
        if failures is None:
            raise error
        if not isinstance(inputs, MANY):
            raise _single_failure(failures[0], error) from error
        return failures

    def _unexpected(self, response: PredictResponse) -> UnexpectedTaskError:
        adapter = f"{response.adapter.name}@{response.adapter.version}"
        return UnexpectedTaskError(
            f"adapter {adapter} does {response.task}, {METHOD_OF_TASK[self.task]}() is for {self.task}: "
            f"call {METHOD_OF_TASK[response.task]}() or predict()"
        )


CLASSIFICATION: TypedTask[Classified] = TypedTask("text-classification")
TOKEN_CLASSIFICATION: TypedTask[TokenClassificationOutput] = TypedTask("token-classification")
QUESTION_ANSWERING: TypedTask[QuestionAnsweringOutput] = TypedTask("question-answering")
MULTIPLE_CHOICE: TypedTask[ChoiceOutput] = TypedTask("multiple-choice")
TEXT_EMBEDDING: TypedTask[EmbeddingOutput] = TypedTask("text-embedding")


def _single_failure(output: FailedOutput, refusal: APIStatusError | None) -> UnprocessableEntityError:
    return UnprocessableEntityError(
        output.error.message,
        status=422,
        code=output.error.code,
        request_id=None if refusal is None else refusal.request_id,
        body=output.model_dump() if refusal is None else refusal.body,
        response=None if refusal is None else refusal.response,
    )
