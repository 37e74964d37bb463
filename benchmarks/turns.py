"""Contestants take turns, so that a busy machine slows them alike; what they took is compared round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track

stderr = Console(stderr=True)

# Runs once, for the round of this number, and returns its seconds.
Contestant = Callable[[int], float]


@dataclass(frozen=True)
class Spread:
    """Over the rounds: the median and the quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], digits: int = 3) -> Spread:
        low, median, high = (round(float(value), digits) for value in np.percentile(values, [25, 50, 75]))
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Turns:
    """Seconds of every contestant, one number per round."""

    seconds: Mapping[str, Sequence[float]]

    def per_s(self, name: str, count: int) -> Spread:
        """How many of `count` a round are done in a second."""
        return Spread.of([count / taken for taken in self.seconds[name]], 1)

    def speed(self, name: str, other: str) -> Spread:
        """How many times as fast as `other` is `name`."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return Spread.of([theirs / own for own, theirs in pairs])


def take_turns(contestants: Mapping[str, Contestant], rounds: int, warm_ups: int, seed: int = 0) -> Turns:
    """Each runs once a round, in an order that is drawn anew for every round. Rounds of the warm-up do not count."""
    random = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in track(range(warm_ups + rounds), "rounds", console=stderr, transient=True):
        for name in random.permutation(list(contestants)):
            taken = contestants[name](index)
            if index >= warm_ups:
                seconds[name].append(taken)
    return Turns(seconds)
