"""What is learnt from and scored against: one input and its target. Plain data; knows no files and no columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GoldAnswers:
    """Acceptable answers of a question; none means that the context does not answer it."""

    texts: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CandidateLabels:
    """A label for each candidate of an input, by its name."""

    names: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike the two texts of a pair are; None: they belong together, nothing else is known."""

    score: float | None


Target = str | float | int | tuple[str, ...] | GoldAnswers | CandidateLabels | Similarity


@dataclass(frozen=True, slots=True)
class Example:
    """`input` has the shape that the served task takes, or is a pair of such inputs for embeddings.

    `place` says where it was read, for messages: two examples that differ in nothing else are equal.
    """

    input: Any
    target: Target
    place: str = field(default="", compare=False)
