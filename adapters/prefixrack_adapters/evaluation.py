"""Evaluation: an adapter's answers against gold targets, through the same prediction path that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from prefixrack.errors import InputFault
from prefixrack.types import Parameters
from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.prediction import compute_all, finish_all, predict, rows_of
from prefixrack_adapters.rows import Row
from prefixrack_adapters.scoring import Evaluation, Facts, Outputs, inputs_of, judge
from prefixrack_adapters.tasks import AnyTask, Prepared, build_task
from prefixrack_adapters.training.data import Example

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone

__all__ = ["Evaluation", "Exam", "answer", "evaluate", "evaluate_together", "facts_of", "parameters_of"]

Advance = Callable[[int], None]
CUT_TASKS = ("text-classification", "multiple-choice", "text-embedding")  # the others look through windows


def evaluate(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_pack_tokens: int = 4096,
    advance: Advance | None = None,
) -> Evaluation:
    """Score an adapter by what it answers. Raises InvalidRequest for no example at all."""
    outputs = answer(backbone, adapter, examples, max_pack_tokens, advance)
    return judge(facts_of(adapter.manifest), outputs, examples)


def answer(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_pack_tokens: int = 4096,
    advance: Advance | None = None,
) -> Outputs:
    """An output for each of `inputs_of` the examples. Overlong inputs are cut as in training, never refused.

    `advance` hears of finished rows.
    """
    facts = facts_of(adapter.manifest)
    return predict(backbone, adapter, inputs_of(facts, examples), parameters_of(facts), max_pack_tokens, advance)


@dataclass(frozen=True, slots=True)
class Exam:
    """Examples prepared once, for an adapter that is scored again and again while it is trained."""

    facts: Facts
    task: AnyTask
    examples: Sequence[Example]
    prepared: Sequence[Prepared | InputFault]
    rows: Sequence[Row]
    parameters: Parameters

    @classmethod
    def of(cls, backbone: Backbone, manifest: Manifest, examples: Sequence[Example]) -> Exam:
        facts = facts_of(manifest)
        task = build_task(manifest, backbone.spec, backbone.tokenizer)
        parameters = parameters_of(facts) or Parameters()
        prepared = task.prepare_many(inputs_of(facts, examples), parameters)
        return cls(facts, task, examples, prepared, rows_of(backbone, prepared), parameters)

    def judged(self, logits: Iterable[Any]) -> Evaluation:
        """From the logits of `rows`, in order."""
        return judge(self.facts, finish_all(self.task, self.prepared, logits, self.parameters), self.examples)


def evaluate_together(
    backbone: Backbone, sitting: Sequence[tuple[Exam, Adapter]], max_pack_tokens: int
) -> list[Evaluation]:
    """Score several adapters, each on its own examples, in packs with rows of all of them."""
    entries = [PackRow(row, adapter) for exam, adapter in sitting for row in exam.rows]
    logits = iter(compute_all(backbone, entries, max_pack_tokens))
    return [exam.judged(islice(logits, len(exam.rows))) for exam, _ in sitting]


def facts_of(manifest: Manifest) -> Facts:
    decoding = manifest.decoding
    return Facts(manifest.task, tuple(manifest.labels), decoding.problem, decoding.no_answer, manifest.input_format)


def parameters_of(facts: Facts) -> Parameters | None:
    return Parameters(overlong="truncate") if facts.task in CUT_TASKS else None
