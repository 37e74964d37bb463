"""The noticeboard: what the front ends of one server must know of each other at once. Knows numbers only.

Shared memory with a line for each front end. A front end writes its own line alone, so nothing needs a lock; a reader
adds up a column.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

CHANGES, ROWS, TOKENS, BEATS = range(4)
NUM_COLUMNS: Final = 4
CELL_BYTES: Final = 8


class Noticeboard:
    """Process life; `line` is the one of this front end."""

    def __init__(self, memory: bytearray | mmap.mmap, line: int = 0) -> None:
        self._cells = memoryview(memory).cast("q")
        self._first = line * NUM_COLUMNS

    @classmethod
    def alone(cls) -> Noticeboard:
        """That of a server with one front end, in its own memory."""
        return cls(bytearray(NUM_COLUMNS * CELL_BYTES))

    @classmethod
    def open(cls, path: Path, line: int) -> Noticeboard:
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), 0), line)

    @property
    def num_changes(self) -> int:
        """How often the front ends changed the registry: another number than before means that something changed."""
        return sum(self._cells[CHANGES::NUM_COLUMNS])

    @property
    def num_rows(self) -> int:
        """Rows that all front ends have accepted and not yet answered."""
        return sum(self._cells[ROWS::NUM_COLUMNS])

    @property
    def num_tokens(self) -> int:
        return sum(self._cells[TOKENS::NUM_COLUMNS])

    def num_beats(self, line: int) -> int:
        """How often a front end has said that it turns."""
        return self._cells[line * NUM_COLUMNS + BEATS]

    def beat(self) -> None:
        self._cells[self._first + BEATS] += 1

    def note_change(self) -> None:
        self._cells[self._first + CHANGES] += 1

    def post(self, num_rows: int, num_tokens: int) -> None:
        """What this front end has accepted and not yet answered."""
        self._cells[self._first + ROWS] = num_rows
        self._cells[self._first + TOKENS] = num_tokens


def make_noticeboard(path: Path, num_lines: int) -> None:
    path.write_bytes(bytes(num_lines * NUM_COLUMNS * CELL_BYTES))
