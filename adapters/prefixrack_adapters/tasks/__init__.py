"""Tasks: what logits mean. `build_task` gives an adapter's task; nothing here loads torch."""

from __future__ import annotations

from typing import Any

from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks.base import Prepared, Task
from prefixrack_adapters.tasks.multiple_choice import MultipleChoice
from prefixrack_adapters.tasks.question_answering import QuestionAnswering
from prefixrack_adapters.tasks.text_classification import TextClassification
from prefixrack_adapters.tasks.token_classification import TokenClassification
from prefixrack_adapters.tokenizer import BackboneTokenizer

AnyTask = Task[Any, Any]
TASKS: dict[str, type[AnyTask]] = {
    task.name: task for task in (TextClassification, TokenClassification, QuestionAnswering, MultipleChoice)
}

__all__ = ["TASKS", "AnyTask", "Prepared", "as_inputs", "build_task"]


def build_task(manifest: Manifest, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> AnyTask:
    """The task of an adapter on a backbone: cheap, immutable, safe to share between threads."""
    return TASKS[manifest.task](manifest, spec, tokenizer)


def as_inputs(inputs: Any) -> list[Any]:
    """A list is many inputs, anything else is one."""
    return inputs if isinstance(inputs, list) else [inputs]
