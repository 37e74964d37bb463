"""`prefixrack keys`: API keys. Knows arguments and tables; a secret is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from prefixrack.cli.printing import show_facts, show_json, show_line, show_table
from prefixrack.cli.session import JsonOption, open_client


def create(
    context: typer.Context,
    scope: Annotated[list[str] | None, typer.Option(help="What the key may do; repeat it for each.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="ISO time, as 2030-01-31T00:00:00Z; never by default.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a key. Without --scope it may predict and read adapters."""
    with open_client(context) as client:
        key = client.create_key(scope or ["predict", "adapters:read"], expires_at=expires_at)
    if json:
        show_json(key)
        return
    show_facts([("key", key.secret), ("id", key.id), ("scopes", ", ".join(key.scopes)), ("expires", key.expires_at)])
    show_line("Keep the key now: it is not shown again.", "yellow")


def list_keys(context: typer.Context, json: JsonOption = False) -> None:
    """List the keys, without their secrets."""
    with open_client(context) as client:
        keys = list(client.list_keys())
    if json:
        show_json({"data": keys})
        return
    rows = [(key.id, key.tenant, ", ".join(key.scopes), key.created_at, key.expires_at or "never") for key in keys]
    show_table(("id", "tenant", "scopes", "created", "expires"), rows, empty="no keys")


def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Take a key out of use, at once."""
    with open_client(context) as client:
        client.revoke_key(key_id)
    if json:
        show_json({"revoked": key_id})
    else:
        show_line(f"key {key_id} is revoked", "bold green")


def keys_app() -> typer.Typer:
    app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, pretty_exceptions_enable=False)
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("revoke")(revoke)
    return app
