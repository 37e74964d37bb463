"""The administrator's key at start: shown on standard output, this once. Knows no HTTP."""

from __future__ import annotations

import typer

from prefixrack_server.config import ServerConfig
from prefixrack_server.registry.registry import Registry


async def show_admin_key(config: ServerConfig, registry: Registry, is_new_wanted: bool = False) -> None:
    """Print the first administrator's key, or one more where that is wanted, the one time that it can be known."""
    if config.http.auth == "none" and not is_new_wanted:
        return
    secret = await (registry.new_admin_key() if is_new_wanted else registry.ensure_admin_key())
    if secret is not None:
        typer.echo(f"\nAdmin API key, shown this once: {secret}\n  export PREFIXRACK_API_KEY={secret}\n")
