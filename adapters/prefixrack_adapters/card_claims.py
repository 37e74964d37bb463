"""What a card shows of its bundle's claims: fields that the Hugging Face hub reads, and a table. Knows no files."""

from __future__ import annotations

import json
import re
from itertools import groupby
from typing import Any

from prefixrack_adapters.manifest import Manifest, Metric

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", flags=re.DOTALL)
FENCE = "---"


def hub_fields(manifest: Manifest) -> dict[str, Any]:
    """`metrics` and `model-index` of the front matter: a result for each data set and split."""
    ordered = sorted(manifest.metrics, key=_place)
    results = [_result(manifest.task, list(claims)) for _, claims in groupby(ordered, key=_place)]
    return {
        "metrics": list(dict.fromkeys(claim.name for claim in manifest.metrics)),
        "model-index": [{"name": manifest.name, "results": results}],
    }


def _place(claim: Metric) -> tuple[str, str]:
    return claim.dataset, claim.split


def _result(task: str, claims: list[Metric]) -> dict[str, Any]:
    name, split = _place(claims[0])
    return {
        "task": {"type": task},
        "dataset": {"name": name, "type": name, "split": split},
        "metrics": [{"type": claim.name, "value": claim.value} for claim in claims],
    }


def front_line(name: str, value: Any) -> str:
    """JSON is YAML too."""
    return f"{name}: {json.dumps(value, ensure_ascii=False)}"


def with_claims(card: str, manifest: Manifest) -> str:
    """The card with what the manifest claims now. What is no field or block of ours stays as it is."""
    fields = {f"{name}: ": front_line(name, value) for name, value in hub_fields(manifest).items()}
    lines = card.split("\n")
    if lines[0] == FENCE and FENCE in lines[1:]:
        end = lines.index(FENCE, 1)
        lines[:end] = [next((new for key, new in fields.items() if line.startswith(key)), line) for line in lines[:end]]
    table = "\n".join([BEGIN, *_table(manifest), END])
    return BLOCK.sub(lambda _: table, "\n".join(lines))


def _table(manifest: Manifest) -> list[str]:
    rows = [
        f"| {claim.name} | {claim.value:.4f} | {claim.dataset} | {claim.split} | {claim.num_examples or '–'} |"
        for claim in manifest.metrics
    ]
    heading = ["| score | value | data | split | examples |", "| --- | ---: | --- | --- | ---: |"]
    return ["What the bundle claims, with what was measured later:", "", *heading, *rows] if rows else []
