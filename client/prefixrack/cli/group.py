"""The root of the command: finds commands of other packages lazily, turns errors into sentences and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from prefixrack.cli.exits import ExitCode, exit_code_of
from prefixrack.cli.plugins import Plugin, find_plugins
from prefixrack.cli.printing import sentence_of, show_error
from prefixrack.errors import PrefixrackError
from prefixrack.validation import first_problem

FILE_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class RootGroup(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + [name for name in find_plugins() if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        plugin = None if own is not None else find_plugins().get(cmd_name)
        return own if plugin is None else plugin.placeholder()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        plugin = self._plugin(ctx, args)
        if plugin is None:
            return super().resolve_command(ctx, args)
        return plugin.entry.name, plugin.load(), args[1:]

    def make_context(self, *given: Any, **named: Any) -> Any:
        with _values_named():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _values_named():
                return super().invoke(ctx)
        except PrefixrackError as error:
            show_error(sentence_of(error))
            raise typer.Exit(exit_code_of(error)) from error
        except ModuleNotFoundError as error:
            # Commands of other packages may import what is heavy as late as when they run.
            plugin = find_plugins().get(ctx.invoked_subcommand)
            if plugin is None:
                raise
            raise plugin.missing_extra(error) from error
        except FILE_ERRORS as error:
            show_error(_sentence_of_file(error))
            raise typer.Exit(ExitCode.USAGE) from error

    def _plugin(self, ctx: Any, args: list[str]) -> Plugin | None:
        if not args or super().get_command(ctx, args[0]) is not None:
            return None
        return find_plugins().get(args[0])


@contextmanager
def _values_named() -> Iterator[None]:
    """What typer says of a bad value is pydantic's sentence alone: say which value it was."""
    try:
        yield
    except typer.BadParameter as error:
        if isinstance(error.__cause__, ValidationError):
            problem = first_problem(error.__cause__)
            seen = repr(problem.seen)
            error.message = problem.sentence if seen in problem.sentence else f"{problem.sentence}; seen {seen}"
        raise


def _sentence_of_file(error: OSError) -> str:
    """What the system says has the file in it; where we refuse one, there is a sentence already."""
    if error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror}; check the path, here seen from {Path.cwd()}"
