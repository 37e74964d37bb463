"""`prefixrack keys`: API keys. Knows arguments and tables; a secret is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from prefixrack.cli.printing import minute_of, show_facts, show_json, show_line, show_table
from prefixrack.cli.session import JsonOption, TenantOption, open_client
from prefixrack.types import KeyInfo


def create(
    context: typer.Context,
    scope: Annotated[list[str] | None, typer.Option(help="What the key may do; repeat it for each.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="ISO time, as 2030-01-31T00:00:00Z; never by default.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Pattern of adapter names that it is limited to, as 'team-a.*'; repeat it.")
    ] = None,
    tenant: TenantOption = None,
    name: Annotated[str | None, typer.Option(help="What people call it, as 'billing, nightly'.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a key. Without --scope it may predict and read adapters."""
    with open_client(context) as client:
        scopes = scope or ["predict", "adapters:read"]
        key = client.create_key(scopes, expires_at=expires_at, adapters=adapter or (), tenant=tenant, name=name)
    _show_made(key, json)


def list_keys(context: typer.Context, tenant: TenantOption = None, json: JsonOption = False) -> None:
    """List the keys, without their secrets."""
    with open_client(context) as client:
        keys = list(client.list_keys(tenant=tenant))
    if json:
        show_json({"data": keys})
        return
    rows = [
        (
            *(key.id, key.name or "", "\n".join(key.scopes), "\n".join(key.adapters)),
            *(minute_of(key.created_at), minute_of(key.expires_at or "never")),
        )
        for key in keys
    ]
    columns = ("id", "name", "scopes", "adapters", "created", "expires")
    show_table(columns, rows, empty="no keys", whole=("id", "scopes"))


def rotate(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    overlap_s: Annotated[
        float | None, typer.Option(help="Seconds until the first key ends by itself; by default `keys revoke` ends it.")
    ] = None,
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Make a second key that may do what this one may. Both hold until the first is revoked."""
    with open_client(context) as client:
        key = client.rotate_key(key_id, overlap_s=overlap_s, tenant=tenant)
    _show_made(key, json)
    if not json and overlap_s is None:
        show_line(f"Once nobody uses the first key any more: prefixrack keys revoke {key_id}")


def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """Take a key out of use, at once."""
    with open_client(context) as client:
        client.revoke_key(key_id, tenant=tenant)
    if json:
        show_json({"revoked": key_id})
    else:
        show_line(f"key {key_id} is revoked", "bold green")


def _show_made(key: KeyInfo, json: bool) -> None:
    if json:
        show_json(key)
        return
    show_facts(
        [
            ("key", key.secret),
            ("id", key.id),
            ("name", key.name),
            ("tenant", key.tenant),
            ("scopes", ", ".join(key.scopes)),
            ("adapters", ", ".join(key.adapters)),
            ("expires", key.expires_at),
        ]
    )
    show_line("Keep the key now: it is not shown again.", "yellow")


def keys_app() -> typer.Typer:
    app = typer.Typer(
        help="Make, list, rotate and revoke API keys.", no_args_is_help=True, pretty_exceptions_enable=False
    )
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("rotate")(rotate)
    app.command("revoke")(revoke)
    return app
