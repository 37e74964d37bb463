"""The numbers that a bundle claims of itself: a manifest's metrics, and how they get there after training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.bundle import MANIFEST_FILE, bundle_digest
from prefixrack_adapters.manifest import Metric, parse_manifest

DIGITS = 4
NO_SCORES = ("best_f1_threshold",)  # says where a score was reached; the manifest's decoding has it


def claims_of(scores: Mapping[str, float], dataset: str, split: str, num_examples: int) -> list[Metric]:
    return [
        Metric(name=name, value=round(value, DIGITS), dataset=dataset, split=split, num_examples=num_examples)
        for name, value in scores.items()
        if name not in NO_SCORES
    ]


def merged(metrics: Sequence[Metric], measured: Sequence[Metric]) -> list[Metric]:
    """A number that was claimed for the same name, data set and split gives its place to the one measured now."""
    newest = {_key(one): one for one in measured}
    kept = [newest.pop(_key(one), one) for one in metrics]
    return [*kept, *newest.values()]


def _key(metric: Metric) -> tuple[str, str, str]:
    return metric.name, metric.dataset, metric.split


def write_claims(folder: Path, measured: Sequence[Metric]) -> str:
    """Put metrics into the bundle's manifest and give the bundle's new digest.

    The manifest is replaced in one step: whoever reads it finds the old one or the new one. Raises InvalidRequest where
    the folder cannot be written, and then nothing has changed.
    """
    path = folder / MANIFEST_FILE
    partial = folder / f".{MANIFEST_FILE}.partial"
    try:
        manifest = parse_manifest(path.read_bytes())
        metrics = merged(manifest.metrics, measured)
        _write_through(partial, manifest.model_copy(update={"metrics": metrics}).to_bytes())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InvalidRequest(f"{path} cannot be written ({error.strerror}): nothing in it has changed") from None
    return bundle_digest(folder)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
