"""`prefixrack playground`: type a text, see what an adapter makes of it. Knows prompts; `rendering` draws outputs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.printing import console, printable, sentence_of
from prefixrack.cli.rendering import render
from prefixrack.cli.session import open_client
from prefixrack.client import Client
from prefixrack.errors import APIConnectionError, PrefixrackError
from prefixrack.types import AdapterDetail

SEPARATOR = "|"
TEXT = "text"
FIRST_FIELDS = (TEXT, "question")
MOST_LABELS = 8
HELP = "/use NAME  another adapter    /list  all of them    /example  the adapter's own    /quit  or Ctrl-D"


def playground(
    context: typer.Context,
    adapter: Annotated[
        str | None,
        typer.Argument(help="name, name@alias or name@7; the first one by default", autocompletion=adapter_refs),
    ] = None,
) -> None:
    """Type texts, see labels as bars, spans and answers in colour."""
    with open_client(context) as client:
        Playground(client, console(), adapter if adapter is not None else _first(client)).run()


def _first(client: Client) -> str:
    found = next(client.list_adapters(page_size=1), None)
    if found is None:
        raise typer.BadParameter("the server has no adapters: `prefixrack push FOLDER` uploads one")
    return found.name


class Playground:
    """One sitting: the adapter in use, and the screen."""

    def __init__(self, client: Client, out: Console, ref: str) -> None:
        self._client = client
        self._out = out
        self._use(ref)

    def run(self) -> None:
        """Until the user has enough. A fault is shown, and the next prompt comes."""
        self._introduce()
        while True:
            try:
                if not self._turn():
                    return
            except (EOFError, KeyboardInterrupt):
                self._out.print()
                return
            except APIConnectionError:
                raise
            except PrefixrackError as error:
                self._out.print(Text("Error: ", "bold red") + printable(sentence_of(error)))

    def _use(self, ref: str) -> None:
        self._detail: AdapterDetail = self._client.get_adapter(ref)
        self._ref = ref

    def _introduce(self) -> None:
        detail = self._detail
        names = list(dict.fromkeys(label.removeprefix("B-").removeprefix("I-") for label in detail.labels))
        labels = ", ".join(names[:MOST_LABELS]) + (" …" if len(names) > MOST_LABELS else "")
        self._out.print(
            printable(f"{detail.name}@{detail.version}", "bold cyan"), printable(f"{detail.task}  {labels}", "dim")
        )
        self._out.print(Text(HELP, "dim"))

    def _turn(self) -> bool:
        fields = _fields(self._detail)
        typed = self._ask(fields[0])
        if typed.startswith("/"):
            return self._obey(typed)
        if typed:
            self._predict(self._input_of(fields, typed))
        return True

    def _obey(self, command: str) -> bool:
        word, _, rest = command.partition(" ")
        match word:
            case "/quit" | "/exit":
                return False
            case "/use" if rest.strip():
                self._use(rest.strip())
                self._introduce()
            case "/list":
                for one in self._client.list_adapters():
                    self._out.print(printable(f"{one.name:<24}", "bold cyan"), printable(one.task, "dim"))
            case "/example":
                self._predict(self._detail.example)
            case _:
                self._out.print(Text(HELP, "dim"))
        return True

    def _input_of(self, fields: list[str], first: str) -> Any:
        """What was typed, in the form of the adapter's example: a text, or an object of several fields."""
        example = self._detail.example
        if fields == [TEXT]:
            return first
        return {name: _like(example[name], first if name == fields[0] else self._ask(name)) for name in fields}

    def _ask(self, field: str) -> str:
        example = self._detail.example
        is_many = isinstance(example, dict) and isinstance(example.get(field), list)
        hint = f" (separate them by {SEPARATOR})" if is_many else ""
        return self._out.input(
            Text.assemble((self._detail.name, "bold cyan"), (f" {field}{hint}", "dim"), " › ")
        ).strip()

    def _predict(self, given: Any) -> None:
        response = self._client.predict(self._ref, given)
        note = f"{response.usage.tokens} tokens · {response.timings_ms.get('total', 0.0):.1f} ms"
        title = printable(f"{response.adapter.name}@{response.adapter.version}", "dim")
        shown = Panel(render(response.outputs[0], given), title=title, title_align="left", subtitle=Text(note, "dim"))
        self._out.print(shown)


def _fields(detail: AdapterDetail) -> list[str]:
    """What is asked for, in turn: the fields of the example, short ones of a sentence first, lists last.

    An adapter of words takes a text as well, and finds the words itself.
    """
    example = detail.example
    if not isinstance(example, dict) or list(example) == ["tokens"]:
        return [TEXT]
    return sorted(example, key=lambda name: (isinstance(example[name], list), name not in FIRST_FIELDS))


def _like(example: Any, typed: str) -> Any:
    """What was typed, as the kind of value that the example has in its place."""
    if isinstance(example, list):
        return [part.strip() for part in typed.split(SEPARATOR) if part.strip()]
    if isinstance(example, int) and typed.lstrip("-").isdecimal():
        return int(typed)
    return typed
