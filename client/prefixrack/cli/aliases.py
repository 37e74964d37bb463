"""`prefixrack promote` and `rollback`: moving an alias. Knows arguments; the client reads before it moves."""

from __future__ import annotations

from typing import Annotated

import typer

from prefixrack.calls import PRODUCTION
from prefixrack.cli.printing import show_json, show_line
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.client import Client
from prefixrack.types import AliasInfo

AliasOption = Annotated[str, typer.Option(help="The alias to move.")]


def promote(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="name@7 or name@alias; a bare name means its latest version")],
    alias: AliasOption = PRODUCTION,
    require: Annotated[
        list[str] | None,
        typer.Option(help="What the uploader must claim, e.g. f1>=0.9 or wnut17:span_f1>=0.5; repeat as needed."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Point an alias at a version: callers of the bare name get `production`."""
    name, _, wanted = ref.partition("@")
    with open_client(context) as client:
        moved = client.promote(
            name, _version_number(client, name, wanted or "latest"), alias=alias, require=require or ()
        )
    _show(moved, json)


def rollback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The adapter's name.")],
    alias: AliasOption = PRODUCTION,
    json: JsonOption = False,
) -> None:
    """Point an alias back at the version that it was on before."""
    with open_client(context) as client:
        moved = client.rollback(name, alias=alias)
    _show(moved, json)


def _version_number(client: Client, name: str, wanted: str) -> int:
    return int(wanted) if wanted.isdecimal() else client.get_adapter(f"{name}@{wanted}").version


def _show(moved: AliasInfo, as_json: bool) -> None:
    if as_json:
        show_json(moved)
        return
    before = "" if moved.previous_version is None else f" (before: {moved.previous_version})"
    show_line(f"{moved.name}@{moved.alias} is now version {moved.version}{before}", "bold green")
    for claim in moved.claims:
        show_line(f"uploader's claim: {claim.name} {claim.value} on {claim.dataset} ({claim.split})")
