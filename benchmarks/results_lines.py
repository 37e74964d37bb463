"""The lines of benchmark runs, read again: by what was measured, over however many runs there are. Measures nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """The median of the runs' medians, and the lowest and highest of their quartiles."""

    median: float
    low: float
    high: float
    num_runs: int

    def shown(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class ResultLines:
    """Lines of the benchmark format {commit, device, setup, result}."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.lines: Sequence[Line] = list(lines)

    @classmethod
    def read(cls, paths: Iterable[Path]) -> ResultLines:
        return cls(json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines())

    def of(self, benchmark: str, **setup: Any) -> ResultLines:
        """Those of one benchmark with these values in their setup."""
        wanted = {"benchmark": benchmark, **setup}
        return ResultLines(line for line in self.lines if wanted.items() <= named(line).items())

    @classmethod
    def read_existing(cls, paths: Iterable[Path]) -> ResultLines:
        """Of those files that are there."""
        return cls.read(path for path in paths if path.is_file())

    def values(self, *path: str) -> list[Any]:
        """What stands at this place of the results, of the lines that have it."""
        found = [reduce(_step, path, line["result"]) for line in self.lines]
        return [value for value in found if value is not None]

    def measured(self, *path: str) -> Measured | None:
        """A number or a spread at this place of the results, over all runs."""
        spreads = [
            value if isinstance(value, Mapping) else dict.fromkeys(SPREAD, value) for value in self.values(*path)
        ]
        if not spreads:
            return None
        medians, lows, highs = ([spread[name] for spread in spreads] for name in SPREAD)
        return Measured(statistics.median(medians), min(lows), max(highs), len(spreads))


SPREAD = ("median", "low", "high")


def _step(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def named(line: Line) -> dict[str, Any]:
    """The setup and the benchmark, which `gpu.py` names beside it."""
    setup = {"benchmark": line.get("benchmark"), **line["setup"]}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in setup.items()}
