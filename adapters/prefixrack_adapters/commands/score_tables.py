"""An evaluation for people's eyes: tables of scores and classes, and the same as plain data for `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from prefixrack_adapters.commands.shared import printable

if TYPE_CHECKING:
    from prefixrack_adapters.bootstrap import Interval
    from prefixrack_adapters.comparison import Comparison
    from prefixrack_adapters.scoring import ClassScore, Evaluation, Outputs

MOST_CLASSES = 20


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    result: Evaluation
    intervals: Mapping[str, Interval]
    outputs: Outputs


def print_evaluation(title: str, measured: Measured, others: Mapping[str, Mapping[str, float]]) -> None:
    """`others` are columns beside the adapter's own: scores by name. The score that decides stands in bold."""
    result = measured.result
    table = Table("score", "value", "95 % interval", *(printable(name) for name in others), title=printable(title))
    for name, value in result.scores.items():
        beside = [f"{column[name]:.4f}" if name in column else "–" for column in others.values()]
        style = "bold" if name == result.main else None
        table.add_row(name, f"{value:.4f}", _interval(measured.intervals.get(name)), *beside, style=style)
    console = Console()
    console.print(table)
    failed = f", {result.num_failed} of them failed and count as wrong" if result.num_failed else ""
    console.print(f"{result.num_examples} examples{failed}", highlight=False)


def print_classes(classes: Sequence[ClassScore]) -> None:
    """Largest first; of a long list the beginning, and a note of the rest."""
    if not classes:
        return
    table = Table("class", "precision", "recall", "F1", "gold", "predicted")
    for one in classes[:MOST_CLASSES]:
        shares = (f"{value:.4f}" for value in (one.precision, one.recall, one.f1))
        table.add_row(printable(one.name), *shares, str(one.support), str(one.num_predicted))
    console = Console()
    console.print(table)
    hidden = len(classes) - MOST_CLASSES
    if hidden > 0:
        console.print(f"and {hidden} smaller classes: --json has all of them", highlight=False)


def print_comparison(comparison: Comparison, first: str, second: str) -> None:
    interval = f", 95 % interval {_interval(comparison.interval)}" if comparison.interval is not None else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"difference of {comparison.metric}: {comparison.difference:+.4f}{interval}")
    if comparison.mcnemar_p_value is not None:
        console.print(f"McNemar's exact test, answers right as a whole: p = {comparison.mcnemar_p_value:.3f}")
    console.print(printable(comparison.in_words(first, second)), style="bold")


def _interval(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def evaluation_as_json(measured: Measured) -> dict[str, Any]:
    result = measured.result
    return {
        "name": measured.name,
        "main": result.main,
        "scores": result.scores,
        "intervals": {score: list(interval) for score, interval in measured.intervals.items()},
        "num_examples": result.num_examples,
        "num_failed": result.num_failed,
        "classes": [asdict(one) for one in result.classes],
        "confusion": None if result.confusion is None else result.confusion.as_json(),
    }


def comparison_as_json(comparison: Comparison, first: str, second: str) -> dict[str, Any]:
    return asdict(comparison) | {"in_words": comparison.in_words(first, second)}
