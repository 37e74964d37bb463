"""Metrics as Prometheus' text format has them: values by name and labels, rates and percentiles between two scrapes.

Pure. The base install brings no Prometheus library, and what is read here is what one server writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \d+)?")
LABEL = re.compile(r'(?P<name>\w+)="(?P<value>(?:[^"\\]|\\.)*)"')
ESCAPED = re.compile(r"\\(.)")
ESCAPES = {"n": "\n"}


class Sample(NamedTuple):
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """All samples of one answer. `at_s` is when, on a monotonic clock."""

    at_s: float
    samples: Mapping[str, tuple[Sample, ...]] = field(repr=False)

    @classmethod
    def parse(cls, text: str, at_s: float) -> Scrape:
        """Lines that are no sample are left out, as comments are."""
        found: dict[str, list[Sample]] = {}
        for sample in _samples(text):
            found.setdefault(sample.name, []).append(sample)
        return cls(at_s, {name: tuple(samples) for name, samples in found.items()})

    def sum(self, name: str, /, **labels: str) -> float:
        """All samples of that name with those labels added up; 0 where there is none."""
        return sum(sample.value for sample in self._matching(name, labels))

    def label_values(self, name: str, *labels: str) -> list[tuple[str, ...]]:
        """The different values of those labels, in the order seen."""
        seen = (tuple(sample.labels.get(label, "") for label in labels) for sample in self.samples.get(name, ()))
        return list(dict.fromkeys(seen))

    def labels(self, name: str) -> Mapping[str, str]:
        """Those of its first sample."""
        samples = self.samples.get(name, ())
        return samples[0].labels if samples else {}

    def buckets(self, name: str, labels: Mapping[str, str]) -> dict[float, float]:
        """A histogram's cumulative counts by upper end, of all series with those labels together."""
        counts: dict[float, float] = {}
        for sample in self._matching(f"{name}_bucket", labels):
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
        return dict(sorted(counts.items()))

    def _matching(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        for sample in self.samples.get(name, ()):
            if all(sample.labels.get(label) == value for label, value in labels.items()):
                yield sample


@dataclass(frozen=True)
class Interval:
    """What happened between two scrapes of one server."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        return max(self.after.at_s - self.before.at_s, 1e-9)

    def rate(self, name: str, /, **labels: str) -> float:
        """Per second; a counter that fell began anew with its server."""
        return self._gain(self.before.sum(name, **labels), self.after.sum(name, **labels)) / self.seconds

    def mean(self, name: str, /, **labels: str) -> float | None:
        """The mean of a histogram's new values, None where there are none."""
        count = self.rate(f"{name}_count", **labels)
        return self.rate(f"{name}_sum", **labels) / count if count else None

    def percentile(self, name: str, share: float, /, **labels: str) -> float | None:
        """Of a histogram's new values, read within a bucket as if they lay evenly; None where there are none.

        The last bucket has no upper end: what falls there is given as its lower one.
        """
        before = self.before.buckets(name, labels)
        counts = {bound: self._gain(before.get(bound, 0.0), n) for bound, n in self.after.buckets(name, labels).items()}
        total = counts.get(float("inf"), 0.0)
        if not total:
            return None
        lower, below = 0.0, 0.0
        for bound, count in counts.items():
            if count >= share * total and count > below:
                is_open = bound == float("inf")
                return lower if is_open else lower + (bound - lower) * (share * total - below) / (count - below)
            lower, below = bound, count
        return lower

    @staticmethod
    def _gain(before: float, after: float) -> float:
        return after - before if after >= before else after


def _samples(text: str) -> Iterator[Sample]:
    for line in text.split("\n"):
        found = SAMPLE.fullmatch(line)
        if found is None:
            continue
        labels = {one["name"]: _unescaped(one["value"]) for one in LABEL.finditer(found["labels"] or "")}
        yield Sample(found["name"], labels, float(found["value"]))


def _unescaped(value: str) -> str:
    return ESCAPED.sub(lambda found: ESCAPES.get(found[1], found[1]), value)
