"""What the shell offers behind a command: adapters as the server names them. Never fails, never waits long."""

from __future__ import annotations

from itertools import islice

import typer

from prefixrack.cli.session import Session
from prefixrack.errors import PrefixrackError

PATIENCE_S = 1.0
MOST_NAMES = 50


def adapter_refs(context: typer.Context, incomplete: str) -> list[str]:
    """Names that begin so; behind an `@` the aliases of that name. Nothing where the server does not answer at once."""
    given = context.find_root().params
    session = Session(given.get("base_url"), given.get("api_key"), PATIENCE_S)
    name, at, _ = incomplete.partition("@")
    try:
        with session.open_client().with_options(max_retries=0) as client:
            found = list(islice(client.list_adapters(search=name or None, page_size=MOST_NAMES), MOST_NAMES))
    except (PrefixrackError, typer.BadParameter):
        return []
    if not at:
        return [one.name for one in found if one.name.startswith(incomplete)]
    refs = [f"{name}@{alias}" for one in found if one.name == name for alias in sorted(one.aliases)]
    return [ref for ref in refs if ref.startswith(incomplete)]
