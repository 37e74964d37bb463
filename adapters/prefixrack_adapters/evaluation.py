"""Evaluation: an adapter's answers against gold targets, through the same prediction path that serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefixrack.types import Parameters
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.prediction import predict
from prefixrack_adapters.scoring import Evaluation, Facts, inputs_of, judge
from prefixrack_adapters.training.data import Example

if TYPE_CHECKING:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone

__all__ = ["Evaluation", "evaluate", "facts_of", "parameters_of"]

Advance = Callable[[int], None]
CUT_TASKS = ("text-classification", "multiple-choice", "text-embedding")  # the others look through windows


def evaluate(
    backbone: Backbone,
    adapter: Adapter,
    examples: Sequence[Example],
    max_pack_tokens: int = 4096,
    advance: Advance | None = None,
) -> Evaluation:
    """Score an adapter. Overlong inputs are cut as in training, never refused. `advance` hears of finished rows.

    Raises InvalidRequest for no example at all.
    """
    facts = facts_of(adapter.manifest)
    inputs = inputs_of(facts, examples)
    outputs = predict(backbone, adapter, inputs, parameters_of(facts), max_pack_tokens, advance)
    return judge(facts, outputs, examples)


def facts_of(manifest: Manifest) -> Facts:
    decoding = manifest.decoding
    return Facts(manifest.task, tuple(manifest.labels), decoding.problem, decoding.no_answer, manifest.input_format)


def parameters_of(facts: Facts) -> Parameters | None:
    return Parameters(overlong="truncate") if facts.task in CUT_TASKS else None
