"""One command of the documentation, PROGRAM ARGUMENTS…; its exit code is the command's. The nursery runs it."""

from __future__ import annotations

import sys
from importlib import import_module

from docs_commands import STARTED, WrongCommand


def main() -> None:
    program, *arguments = sys.argv[1:]
    assert program in STARTED
    try:
        sys.exit(import_module(f"docs_commands.{program}_command").run(arguments))
    except WrongCommand as error:
        sys.exit(f"{program} {' '.join(arguments)}: {error}")
