"""Adapter versions whose answers are known: each with random weights of its own, and what it says when it is alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefixrack.types import Output, Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from tiny import write_random_bundle

PROBES = (
    "who was born in paris",
    "the cat sat on the mat when rain came to the city of london",
    "ada",
    "where is the river",
)
KINDS: tuple[dict[str, Any], ...] = (
    {"task": "text-classification", "labels": ("no", "maybe", "yes")},
    {"task": "token-classification", "labels": ("O", "B-X", "I-X")},
)
PREFIX_LENS = (4, 1, 16, 0, 9)
# Solo and packed answers differ by float32 rounding; two versions differ by much more.
TOLERANCE = 1e-4
MIN_DIFFERENCE = 1e-2


@dataclass(frozen=True)
class Specimen:
    """One version to upload. `answers[p]` is its answer to probe p with logits, computed alone."""

    folder: Path
    digest: str
    task: str
    size_bytes: int
    answers: tuple[dict[str, Any], ...]


def make_specimens(backbone: Backbone, folder: Path, num_specimens: int, seed: int = 0) -> list[Specimen]:
    """Tasks and prefix lengths take turns, so that packs mix them."""
    return [_make_specimen(backbone, folder / str(index), index, seed) for index in range(num_specimens)]


def _make_specimen(backbone: Backbone, folder: Path, index: int, seed: int) -> Specimen:
    options = KINDS[index % len(KINDS)] | {"prefix_len": PREFIX_LENS[index % len(PREFIX_LENS)]}
    write_random_bundle(folder, backbone.spec, seed=seed + index, name=f"specimen-{index}", **options)
    adapter = Adapter.load(folder)
    answers = tuple(_solo(backbone, adapter, probe) for probe in PROBES)
    return Specimen(folder, adapter.digest, adapter.manifest.task, adapter.size_bytes, answers)


def _solo(backbone: Backbone, adapter: Adapter, probe: str) -> dict[str, Any]:
    (output,) = backbone.predict(adapter, [probe], Parameters(logits=True))
    assert isinstance(output, Output), f"{probe!r} has no answer: {output}"
    return output.model_dump()


def assert_distinct(specimens: Sequence[Specimen]) -> None:
    """Any two differ by more than MIN_DIFFERENCE on every probe: no answer can pass for another version's."""
    for probe, text in enumerate(PROBES):
        for kind in KINDS:
            same_kind = [specimen for specimen in specimens if specimen.task == kind["task"]]
            closest = _closest(np.array([np.ravel(specimen.answers[probe]["logits"]) for specimen in same_kind]))
            assert closest > MIN_DIFFERENCE, f"two of {kind['task']} differ by {closest} only on {text!r}"


def _closest(logits: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The smallest distance (largest difference of one logit) between any two rows."""
    distances = (np.abs(logits[:index] - logits[index]).max(axis=1).min() for index in range(1, len(logits)))
    return float(min(distances, default=np.inf))


def is_close(seen: Any, expected: Any) -> bool:
    """Equal answers: the same shape and values, numbers up to the tolerance."""
    if isinstance(expected, float):
        return isinstance(seen, int | float) and abs(seen - expected) <= TOLERANCE
    if isinstance(expected, dict):
        return set(seen) == set(expected) and all(is_close(seen[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(seen) == len(expected) and all(map(is_close, seen, expected))
    return bool(seen == expected)
