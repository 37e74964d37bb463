"""Commands that other packages add by entry point, loaded when they are run. Knows modules and extras by name only.

Each entry point of the group `prefixrack.commands` holds one command: its name is the command's, its object the
function with typer's annotations (or a `typer.Typer`). The help lists them without importing anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import typer

GROUP = "prefixrack.commands"

EXTRA_OF_PACKAGE: Mapping[str, str] = MappingProxyType({"prefixrack_server": "server", "prefixrack_adapters": "train"})
# Commands that need more than their package's extra, or less.
EXTRA_OF_COMMAND: Mapping[str, str] = MappingProxyType({"demo": "demo", "import": "adapters"})
SUMMARY_OF_COMMAND: Mapping[str, str] = MappingProxyType(
    {
        "serve": "Run a server.",
        "db": "Look after the registry's database.",
        "backup": "Write all that a registry holds into one file.",
        "restore": "Fill an empty registry from a backup.",
        "demo": "Serve the example adapters on this machine.",
        "train": "Train an adapter on labelled data.",
        "evaluate": "Measure an adapter bundle on labelled data.",
        "import": "Convert an adapter of another tool into a bundle.",
    }
)


class MissingExtra(typer.BadParameter):
    """The package of a command cannot be imported as installed."""

    def format_message(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Plugin:
    entry: EntryPoint

    @property
    def package(self) -> str:
        return self.entry.module.partition(".")[0]

    @property
    def extra(self) -> str | None:
        """The extra of this distribution that brings it; None for commands of other distributions."""
        own = EXTRA_OF_PACKAGE.get(self.package)
        return own if own is None else EXTRA_OF_COMMAND.get(self.entry.name, own)

    @property
    def install_line(self) -> str:
        return f"pip install 'prefixrack[{self.extra}]'" if self.extra is not None else f"pip install {self.package}"

    @property
    def summary(self) -> str:
        known = SUMMARY_OF_COMMAND.get(self.entry.name, f"Added by {self.package}.")
        return known if self.extra is None else f"{known} Needs the extra `{self.extra}`."

    def load(self) -> Any:
        """The command itself. Raises MissingExtra with the line that installs what is missing."""
        try:
            loaded = self.entry.load()
        except ImportError as error:
            raise self.missing_extra(error) from error
        return typer.main.get_command(self._app_of(loaded))

    def missing_extra(self, error: ImportError) -> MissingExtra:
        return MissingExtra(f"`prefixrack {self.entry.name}` cannot start ({error}): {self.install_line}")

    def placeholder(self) -> Any:
        """Stands in the help for the command, without its package being imported."""
        app = typer.Typer(add_completion=False)
        app.command(self.entry.name, help=self.summary)(_unloaded)
        return typer.main.get_command(app)

    def _app_of(self, loaded: Any) -> typer.Typer:
        if isinstance(loaded, typer.Typer):
            return loaded
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(self.entry.name)(loaded)
        return app


def find_plugins() -> dict[str, Plugin]:
    """The installed commands of other packages by name; nothing is imported."""
    return {entry.name: Plugin(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def _unloaded() -> None:
    raise AssertionError("a placeholder is listed, never run")
