"""The API task token-classification: entities, or the words with their tags. Knows no HTTP.

Adapters label words by their first token, so that is what every strategy means here; those that weigh the tokens within
a word (average, max) have nothing to weigh and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from prefixrack.types import Parameters
from prefixrack_adapters.manifest import OUTSIDE, Manifest
from prefixrack_adapters.tasks.base import softmax
from prefixrack_server.compat.huggingface.plan import Options, Outputs, Plan, many, one_or_many
from prefixrack_server.envelope import parse_fields


class EntityOptions(Options):
    aggregation_strategy: Literal["none", "simple", "first"] = "simple"
    ignore_labels: Sequence[str] = (OUTSIDE,)


def plan_entities(inputs: Any, parameters: Mapping[str, Any], manifest: Manifest) -> Plan:
    options = parse_fields(EntityOptions, parameters)
    texts, ignored = many(inputs), options.ignore_labels

    def groups(outputs: Outputs) -> Any:
        return one_or_many(inputs, [_groups(output, ignored) for output in outputs])

    def words(outputs: Outputs) -> Any:
        pairs = zip(outputs, texts, strict=True)
        return one_or_many(inputs, [list(_words(output, text, manifest, ignored)) for output, text in pairs])

    if options.aggregation_strategy == "none":
        return Plan(texts, Parameters(logits=True), words)
    return Plan(texts, Parameters(), groups)


def _groups(output: Mapping[str, Any], ignored: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "entity_group": span["label"],
            "score": span["score"],
            "word": span["text"],
            "start": span["start"],
            "end": span["end"],
        }
        for span in output["spans"]
        if span["label"] not in ignored
    ]


def _words(
    output: Mapping[str, Any], text: str, manifest: Manifest, ignored: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """`index` counts words from 1. A word without a token has no logits and is left out."""
    for index, (logits, (start, end)) in enumerate(zip(output["logits"], output["logit_offsets"], strict=True), 1):
        if logits is None:
            continue
        scores = softmax(np.array(logits))
        best = int(scores.argmax())
        if manifest.labels[best] not in ignored:
            place = {"word": text[start:end], "start": start, "end": end}
            yield {"entity": manifest.labels[best], "score": float(scores[best]), "index": index, **place}
