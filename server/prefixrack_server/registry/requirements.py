"""What a promotion asks of a version's metrics, such as "f1>=0.9". Knows manifests; no database and no HTTP.

The numbers are those of the bundle's manifest: the uploader's claims. The server measures nothing itself.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefixrack.errors import InvalidRequest, RequirementNotMet
from prefixrack.types import Claim
from prefixrack_adapters.manifest import Metric

MAX_SHOWN = 12
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# The data set's name may hold colons of its own: the last one ends it.
PATTERN = re.compile(r"(?:(?P<dataset>.+):)?(?P<metric>[^:<>=]+)(?P<sign>[<>]=?)(?P<bound>[^:<>=]+)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """`dataset` None asks it of every data set that the metric is claimed for."""

    text: str
    metric: str
    sign: str
    bound: float
    dataset: str | None = None

    def check(self, version: str, metrics: Sequence[Metric]) -> list[Claim]:
        """The claims that meet it, at least one. Raises RequirementNotMet, naming the number or what is there."""
        claimed = [one for one in metrics if one.name == self.metric and self.dataset in (None, one.dataset)]
        if not claimed:
            raise RequirementNotMet(
                f"{version} claims no {self._wanted!r} in its manifest, which {self.text!r} asks for; it claims "
                f"{_listed(metrics)}: measure it with `prefixrack evaluate --write` and upload the bundle again"
            )
        for one in claimed:
            if not COMPARISONS[self.sign](one.value, self.bound):
                raise RequirementNotMet(
                    f"{version} does not meet {self.text!r}: its uploader claims {_shown(one)}; the alias stays where "
                    "it is"
                )
        fields = ("name", "value", "dataset", "split", "num_examples")
        return [Claim(requirement=self.text, **one.model_dump(include=set(fields))) for one in claimed]

    @property
    def _wanted(self) -> str:
        return self.metric if self.dataset is None else f"{self.dataset}:{self.metric}"


def parse_requirement(text: str) -> Requirement:
    """Raises InvalidRequest for anything but [dataset:]metric, a comparison and a number."""
    found = PATTERN.fullmatch(text.strip())
    bound = _number(found["bound"]) if found else None
    if found is None or bound is None:
        raise InvalidRequest(
            f"requirement {text[:80]!r} cannot be read: write a metric, {' or '.join(COMPARISONS)}, and a number, with "
            'the data set before it where that matters: "f1>=0.9", "wnut17:span_f1>=0.5"'
        )
    dataset = found["dataset"]
    return Requirement(
        text, found["metric"].strip(), found["sign"], bound, None if dataset is None else dataset.strip()
    )


def check_all(version: str, metrics: Sequence[Metric], requirements: Sequence[str]) -> list[Claim]:
    """Raises InvalidRequest for the first that cannot be read, RequirementNotMet for the first that is not met."""
    parsed = [parse_requirement(text) for text in requirements]
    return [claim for one in parsed for claim in one.check(version, metrics)]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _shown(metric: Metric) -> str:
    return f"{metric.name} {metric.value} on {metric.dataset} ({metric.split})"


def _listed(metrics: Sequence[Metric]) -> str:
    shown = [_shown(one) for one in metrics[:MAX_SHOWN]]
    more = len(metrics) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "") if shown else "nothing"
