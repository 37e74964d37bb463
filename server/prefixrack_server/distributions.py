"""Distributions: how often a value fell into which range, as the engine counts them. Knows no Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# The upper ends of the ranges; above the last one there is one more.
PACK_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
PACK_TOKENS: Final = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
PACK_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
QUEUE_SECONDS: Final = PACK_SECONDS


@dataclass(frozen=True, slots=True)
class Distribution:
    """A snapshot: counts by range, and the sum of all values. Without counts: nothing was counted."""

    counts: tuple[int, ...] = ()
    total: float = 0.0


class Tally:
    """Counts values; a value at an upper end belongs below it."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> Distribution:
        return Distribution(tuple(self._counts), self._total)
