"""The numbers that a bundle claims of itself: a manifest's metrics, and how they get into a written bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, bundle_digest, read_card
from prefixrack_adapters.card_claims import with_claims
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
    """Put metrics into the bundle's manifest and its card, and give the bundle's new digest.

    Each file is replaced in one step: whoever reads it finds the old one or the new one. Raises InvalidRequest where
    the folder cannot be written, and then nothing has changed.
    """
    card = read_card(folder)
    partials = {}
    try:
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())
        claiming = manifest.model_copy(update={"metrics": merged(manifest.metrics, measured)})
        contents = {MANIFEST_FILE: claiming.to_bytes()}
        if card is not None:
            contents[CARD_FILE] = with_claims(card, claiming).encode()
        for name, content in contents.items():
            partials[name] = folder / f".{name}.partial"
            _write_through(partials[name], content)
        for name, partial in partials.items():
            partial.replace(folder / name)
    except OSError as error:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        raise InvalidRequest(f"{folder} cannot be written ({error.strerror}): nothing in it has changed") from None
    return bundle_digest(folder)


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
