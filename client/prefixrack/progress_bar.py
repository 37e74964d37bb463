"""A bar on stderr for long work on files. Knows no client; rich is imported when a bar is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from prefixrack.file_map import FileProgress


@contextmanager
def bar_or(progress: FileProgress | bool | None, title: str) -> Iterator[FileProgress | None]:
    """The caller's own function; a bar for True, and for None where stderr is a terminal; else nothing."""
    if callable(progress):
        yield progress
    elif progress or (progress is None and sys.stderr.isatty()):
        with _bar(title) as shown:
            yield shown
    else:
        yield None


@contextmanager
def _bar(title: str) -> Iterator[FileProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
