"""`prefixrack promote`, `canary`, `shadow`, `gates` and `rollback`: where an alias stands. Knows arguments; the client
reads before it moves."""

from __future__ import annotations

from typing import Annotated

import typer

from prefixrack.calls import PRODUCTION
from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.printing import show_json, show_line
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.client import Client
from prefixrack.types import AliasInfo

AliasOption = Annotated[str, typer.Option(help="The alias to move.")]


def promote(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            help="name@7 or name@alias; a bare name means its latest version",
            autocompletion=adapter_refs,
        ),
    ],
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


def canary(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            help="name@7: the version that is to answer a share of the requests.", autocompletion=adapter_refs
        ),
    ],
    share: Annotated[float, typer.Option(help="The share, between 0 and 1.")] = 0.05,
    alias: AliasOption = PRODUCTION,
    json: JsonOption = False,
) -> None:
    """Let a version answer a share of an alias' requests. `promote` or `rollback` ends it."""
    if not 0 < share < 1:
        raise typer.BadParameter(
            f"--share is {share:g}: a number between 0 and 1, such as 0.05; `promote` gives a version all requests, "
            "`rollback` takes its share away"
        )
    name, _, wanted = ref.partition("@")
    with open_client(context) as client:
        moved = client.start_canary(name, _version_number(client, name, wanted or "latest"), share, alias=alias)
    _show(moved, json)


def shadow(
    context: typer.Context,
    ref: Annotated[
        str,
        typer.Argument(
            help="name@7: the version that is to compute what the alias is asked.", autocompletion=adapter_refs
        ),
    ],
    alias: AliasOption = PRODUCTION,
    json: JsonOption = False,
) -> None:
    """Have a version compute what an alias is asked, and count how often it agrees. Nobody gets its answers."""
    name, _, wanted = ref.partition("@")
    with open_client(context) as client:
        moved = client.start_shadow(name, _version_number(client, name, wanted or "latest"), alias=alias)
    _show(moved, json)


def gates(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The adapter's name.", autocompletion=adapter_refs)],
    require: Annotated[
        list[str] | None, typer.Option(help="What every version must claim, e.g. f1>=0.9; repeat as needed.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the gates away.")] = False,
    alias: AliasOption = PRODUCTION,
    json: JsonOption = False,
) -> None:
    """Show an alias' gates, or with --require protect it by them."""
    with open_client(context) as client:
        if require or clear:
            info = client.set_gates(name, require or [], alias=alias)
        else:
            info = client.get_gates(name, alias=alias)
    if json:
        show_json(info)
    else:
        show_line(f"{info.name}@{info.alias} asks for {', '.join(info.require) or 'nothing'}")


def rollback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The adapter's name.", autocompletion=adapter_refs)],
    alias: AliasOption = PRODUCTION,
    json: JsonOption = False,
) -> None:
    """Take an alias' canary away; where it has none, point it back at the version that it was on before."""
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
    if moved.canary is not None:
        show_line(f"canary: version {moved.canary.version} answers {moved.canary.share:.2%} of the requests")
    if moved.shadow_version is not None:
        show_line(f"shadow: version {moved.shadow_version} computes and is compared")
    # A canary and a shadow may claim the same.
    claims = [
        f"uploader's claim: {claim.name} {claim.value} on {claim.dataset} ({claim.split})" for claim in moved.claims
    ]
    for line in dict.fromkeys(claims):
        show_line(line)
