"""Scoring of tags by the spans that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefixrack_adapters import metrics
from prefixrack_adapters.formats.srl import SRL
from prefixrack_adapters.scoring.base import (
    ClassScore,
    Evaluation,
    Facts,
    Outputs,
    class_scores,
    has_failed,
    num_failed,
)
from prefixrack_adapters.tallies import Formula, Values, counted, f1, joined, ratio
from prefixrack_adapters.tasks.token_classification import TaggedSpan, join_tags
from prefixrack_adapters.training.data import Example

SpanSets = Sequence[set[TaggedSpan]]


def judge_spans(facts: Facts, outputs: Outputs, examples: Sequence[Example]) -> Evaluation:
    gold: list[Any] = [example.target for example in examples]
    predicted = [
        ["O"] * len(tags) if has_failed(output) else output.tags for output, tags in zip(outputs, gold, strict=True)
    ]
    seen, wanted = ([set(join_tags(tags)) for tags in several] for several in (predicted, gold))
    scores = metrics.spans(predicted, gold) | metrics.span_overlaps(predicted, gold)
    tallies = [counted([_strict_counts(seen, wanted)], _strict)]
    tallies += [counted([metrics.overlap_counts(predicted, gold, way)], _overlap(way)) for way in metrics.OVERLAPS]
    if facts.input_format == SRL.name:
        scores |= metrics.roles(predicted, gold)
        tallies.append(counted([_strict_counts(_roles(seen), _roles(wanted))], _role_f1))
    return Evaluation(
        main=metrics.MAIN_METRIC["token-classification"],
        scores=scores,
        num_examples=len(gold),
        num_failed=num_failed(outputs),
        tally=joined(*tallies),
        classes=_classes(seen, wanted),
    )


def _strict_counts(seen: SpanSets, wanted: SpanSets) -> Values:
    """Hits, predicted and gold spans of each example."""
    return np.array([(len(a & b), len(a), len(b)) for a, b in zip(seen, wanted, strict=True)], dtype=np.float64)


def _strict(sums: Values) -> dict[str, Values]:
    hits, predicted, gold = sums.T
    return {
        "span_f1": f1(hits, predicted, gold),
        "span_precision": ratio(hits, predicted),
        "span_recall": ratio(hits, gold),
    }


def _roles(several: SpanSets) -> SpanSets:
    return [{span for span in spans if span.label != metrics.PREDICATE_LABEL} for spans in several]


def _role_f1(sums: Values) -> dict[str, Values]:
    return {"role_f1": f1(*sums.T)}


def _overlap(way: str) -> Formula:
    return lambda sums: {f"span_{way}_f1": f1(*sums.T)}


def _classes(seen: SpanSets, wanted: SpanSets) -> tuple[ClassScore, ...]:
    """Per type of span."""
    hits = Counter(span.label for a, b in zip(seen, wanted, strict=True) for span in a & b)
    predicted, gold = (Counter(span.label for spans in several for span in spans) for several in (seen, wanted))
    names = sorted({*predicted, *gold})
    return class_scores(names, *(np.array([count[name] for name in names]) for count in (hits, predicted, gold)))
