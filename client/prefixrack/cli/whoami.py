"""`prefixrack whoami`: what the key is to the server. Changes nothing."""

from __future__ import annotations

import typer

from prefixrack.cli.printing import show_facts, show_json
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.cli.tenants import shown_quotas
from prefixrack.types import WhoAmI

WAYS = {"key": "API key", "token": "token", "none": "nothing: this server asks for no keys"}


def whoami(context: typer.Context, json: JsonOption = False) -> None:
    """Show whom the server takes you for, and what your key may do."""
    with open_client(context) as client:
        found = client.whoami()
    if json:
        show_json(found)
        return
    show_facts(
        [
            ("tenant", found.tenant),
            ("known by", WAYS[found.authenticated_by]),
            ("id", None if found.authenticated_by == "none" else found.key_id),
            ("name", found.key_name),
            ("scopes", ", ".join(found.scopes) or "none"),
            ("adapters", shown_patterns(found)),
            ("quotas", shown_quotas(found.quotas)),
            ("weight", found.weight),
            ("expires", found.expires_at or "never"),
        ]
    )


def shown_patterns(found: WhoAmI) -> str:
    return " and ".join(", ".join(patterns) for patterns in found.adapter_patterns) or "all names"
