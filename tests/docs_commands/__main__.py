"""`python -m docs_commands PROGRAM ARGUMENTS…`: one command of the documentation. Its exit code is the command's."""

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


if __name__ == "__main__":
    main()
