"""What the commands share: refusals, column names, a table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefixrack.errors import Fault, InvalidRequest

EXIT_REFUSED = 2


def column_mapping(columns: Sequence[str]) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns]
    if any(not separator for _, separator, _ in pairs):
        raise InvalidRequest(f"--column takes canonical=yours, e.g. text=premise; seen {list(columns)}")
    return {left: right for left, _, right in pairs}


def label_names(labels: str | None) -> list[str] | None:
    """Labels split at commas; a comma inside a name is not provided for."""
    if labels is None:
        return None
    names = [label.strip() for label in labels.split(",")]
    if not all(names):
        raise InvalidRequest(f"--labels is {labels!r}: give names with commas between, none of them empty")
    return names


def quiet_transformers() -> None:
    """Its own progress bars would run through ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def refuse(fault: Fault) -> NoReturn:
    shown = f"[red]{fault.code}[/red]: {escape(fault.detail)}"
    Console(stderr=True).print(shown, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_REFUSED)


def printable(text: str) -> str:
    """A name for a terminal: no markup, and nothing that steers it; labels and names come from bundles and servers."""
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def print_scores(title: str, scores: dict[str, float], bare: dict[str, float], majority: dict[str, float]) -> None:
    table = Table("score", "value", "prefix removed", "majority", title=title)
    for name, value in scores.items():
        others = (f"{column[name]:.4f}" if name in column else "–" for column in (bare, majority))
        table.add_row(name, f"{value:.4f}", *others)
    Console().print(table)
