"""Candidates: one input that is asked once for each of several answers or entities. Plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class Candidates:
    """`inputs[i]` is the plain input that asks for `names[i]`."""

    names: tuple[str, ...]
    inputs: tuple[Any, ...]
