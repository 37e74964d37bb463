"""The `prefixrack db` commands: the registry's database, without a server. Imports what it needs inside the command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from prefixrack.errors import RegistryUnavailable
from prefixrack_server.config import ConfigError, RegistryConfig, load_config

StateDirOption = Annotated[
    Path | None, typer.Option(help="The server's folder, where the database is SQLite. [default: prefixrack-data]")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(help="postgresql://… or sqlite:///…; better in PREFIXRACK_REGISTRY__DATABASE_URL."),
]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def db() -> None:
    """Look after the registry's database."""


@app.command()
def upgrade(state_dir: StateDirOption = None, database_url: DatabaseOption = None) -> None:
    """Bring the database to this version's schema, as a start of the server does. It may run at any time, twice too."""
    try:
        config = load_config({"registry": {"state_dir": state_dir, "database_url": database_url}}).registry
        revision = asyncio.run(_upgrade(config))
    except (ConfigError, RegistryUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"the schema is at revision {revision}")


async def _upgrade(config: RegistryConfig) -> str:
    from prefixrack_server.registry.database import Database, utc_now

    database = await Database.open(config.sqlalchemy_url, utc_now, patience_s=0)
    try:
        return await database.schema_revision()
    finally:
        await database.close()
