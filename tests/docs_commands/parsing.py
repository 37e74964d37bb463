"""A script's own parser on its arguments, and nothing behind it."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence

import typer.core


def parse(script: str, arguments: Sequence[str]) -> int:
    """Ends with the parser's complaint where it has one."""

    def parsed(parser: argparse.ArgumentParser, *_: object) -> None:
        parse_args(parser)
        sys.exit(0)

    parse_args = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = parsed  # type: ignore[assignment, method-assign]
    typer.core.TyperCommand.invoke = lambda *_: None  # type: ignore[method-assign]
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
    return 0
