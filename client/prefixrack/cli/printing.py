"""What reaches the terminal: JSON for programs, tables for people, one clear sentence for errors. Knows no commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefixrack.errors import APIStatusError, PrefixrackError

HIDDEN = "\N{REPLACEMENT CHARACTER}"


def console() -> Console:
    """For people, on stdout. Made anew for each use: stdout may have been replaced since the last."""
    return Console(highlight=False, soft_wrap=True)


def error_console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def as_plain(value: Any) -> Any:
    """Models as JSON data, also inside lists and dicts."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, dict):
        return {name: as_plain(item) for name, item in value.items()}
    return [as_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def show_json(value: Any) -> None:
    """Indented JSON, in ASCII: it passes any terminal and any pipe."""
    sys.stdout.write(json.dumps(as_plain(value), indent=2) + "\n")


def show_json_line(value: Any) -> None:
    sys.stdout.write(json.dumps(as_plain(value)) + "\n")


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str, whole: Collection[str] = ()
) -> None:
    """A table, or the sentence `empty` when it has no rows. Nothing is left out where the terminal is narrow: cells are
    broken into lines, those of the columns `whole` (what is copied: names, ids) the last."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else printable(cell) for cell in row))
    console().print(table if table.row_count else empty)


def show_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Names and values under each other; values that are None or empty are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts:
        if value not in (None, "", [], {}):
            table.add_row(Text(name, "bold"), value if isinstance(value, Text) else printable(value))
    console().print(table)


def minute_of(time: str) -> str:
    """2030-01-31T12:30:15.000Z as people write it; `--json` has it as it is."""
    return time[:16].replace("T", " ")


def size_of(num_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def show_line(text: str, style: str = "") -> None:
    console().print(printable(text, style))


def show_error(message: str) -> None:
    error_console().print(Text("Error: ", "bold red") + printable(message))


def sentence_of(error: PrefixrackError) -> str:
    """The error's message with what support will ask for: code, status, request id."""
    if not isinstance(error, APIStatusError):
        return str(error)
    known = (("code", error.code), ("status", error.status), ("request", error.request_id))
    return f"{error} ({', '.join(f'{name} {value}' for name, value in known if value is not None)})"


def printable(value: Any, style: str = "") -> Text:
    """Text that cannot steer the terminal: what a server sends may hold escape sequences."""
    shown = (char if char.isprintable() or char in " \n\t" else HIDDEN for char in str(value))
    return Text("".join(shown), style)
