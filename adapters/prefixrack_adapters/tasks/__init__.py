"""Tasks: what logits mean. `build_task` gives an adapter's task; nothing here loads torch."""

from __future__ import annotations

from typing import Any

from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks.answer_judging import AnswerJudging
from prefixrack_adapters.tasks.base import Prepared, Task
from prefixrack_adapters.tasks.entity_ranking import EntityRanking
from prefixrack_adapters.tasks.multiple_choice import MultipleChoice
from prefixrack_adapters.tasks.question_answering import QuestionAnswering
from prefixrack_adapters.tasks.text_classification import TextClassification
from prefixrack_adapters.tasks.text_embedding import TextEmbedding
from prefixrack_adapters.tasks.token_classification import TokenClassification
from prefixrack_adapters.tokenizer import BackboneTokenizer

AnyTask = Task[Any, Any]
TASKS: dict[str, type[AnyTask]] = {
    task.name: task
    for task in (TextClassification, TokenClassification, QuestionAnswering, MultipleChoice, TextEmbedding)
}
# Formats of which one input makes several rows that are answered together.
TASKS_OF_FORMATS: dict[str, type[AnyTask]] = {"multirc": AnswerJudging, "record": EntityRanking}

__all__ = ["TASKS", "AnyTask", "Prepared", "as_inputs", "build_task"]


def build_task(manifest: Manifest, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> AnyTask:
    """The task of an adapter on a backbone: cheap, immutable, safe to share between threads."""
    kind = TASKS_OF_FORMATS.get(manifest.input_format, TASKS[manifest.task])
    return kind(manifest, spec, tokenizer)


def as_inputs(inputs: Any) -> list[Any]:
    """A list is many inputs, anything else is one."""
    return inputs if isinstance(inputs, list) else [inputs]
