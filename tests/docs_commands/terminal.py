"""A command that draws or asks at a terminal: somebody sits at one, types, looks, and has enough. Knows no command."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pexpect

TIMEOUT_S = 180
ROWS_AND_COLUMNS = (50, 150)
CTRL_C, CTRL_D = "\x03", "\x04"


class Turn(NamedTuple):
    """Once the screen shows `seen`, a regular expression, `typed` is typed."""

    seen: str
    typed: str


def use(command: Sequence[str], turns: Iterable[Turn]) -> int:
    """Its exit code, after the last turn. What does not show in time is an error with the screen in it."""
    program, *arguments = command
    child = pexpect.spawn(program, arguments, encoding="utf-8", timeout=TIMEOUT_S, dimensions=ROWS_AND_COLUMNS)
    child.logfile_read = sys.stdout
    for seen, typed in turns:
        child.expect(seen)
        child.send(typed)
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus if child.exitstatus is not None else 1
