"""The commands `prefixrack backup` and `prefixrack restore`. Import what they need inside the command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefixrack_server.config import RegistryConfig, load_config
from prefixrack_server.database_commands import DatabaseOption, StateDirOption

if TYPE_CHECKING:
    from prefixrack_server.registry.backup import BackupSummary

BlobsOption = Annotated[
    str | None, typer.Option(help="s3://…, gs://…, az://… or file:///…; as in PREFIXRACK_REGISTRY__BLOBS_URL.")
]


def backup(
    target: Annotated[Path, typer.Argument(help="The file to write, a tar; it must not exist.")],
    state_dir: StateDirOption = None,
    database_url: DatabaseOption = None,
    blobs_url: BlobsOption = None,
) -> None:
    """Write all that a registry holds into one file. Servers may go on meanwhile."""
    config = _registry_config(state_dir, database_url, blobs_url)
    _show("backed up", asyncio.run(_backup(config, target)))


def restore(
    source: Annotated[Path, typer.Argument(help="A file that `prefixrack backup` wrote.")],
    state_dir: StateDirOption = None,
    database_url: DatabaseOption = None,
    blobs_url: BlobsOption = None,
    check: Annotated[bool, typer.Option("--check", help="Read and check the file, and change nothing.")] = False,
) -> None:
    """Fill an empty registry from a backup, whatever its database was. No server may run on it."""
    if check:
        from prefixrack_server.registry.backup import check_backup

        _show("checked", check_backup(source))
        return
    from prefixrack_server.state_folder import claimed

    config = _registry_config(state_dir, database_url, blobs_url)
    with claimed(config.state_dir):
        _show("restored", asyncio.run(_restore(config, source)))


async def _backup(config: RegistryConfig, target: Path) -> BackupSummary:
    from prefixrack_server.registry.backup import write_backup
    from prefixrack_server.registry.blob_stores import open_blobs
    from prefixrack_server.registry.database import Database, utc_now

    database = await Database.open(config.sqlalchemy_url, utc_now, patience_s=0)
    try:
        return await write_backup(database, open_blobs(config), target)
    finally:
        await database.close()


async def _restore(config: RegistryConfig, source: Path) -> BackupSummary:
    from prefixrack_server.registry.backup import restore_backup
    from prefixrack_server.registry.blob_stores import open_blobs
    from prefixrack_server.registry.database import Database, utc_now

    database = await Database.open(config.sqlalchemy_url, utc_now, is_migrated=True, patience_s=0)
    try:
        return await restore_backup(database, open_blobs(config), source)
    finally:
        await database.close()


def _registry_config(state_dir: Path | None, database_url: str | None, blobs_url: str | None) -> RegistryConfig:
    given = {"state_dir": state_dir, "database_url": database_url, "blobs_url": blobs_url}
    return load_config({"registry": given}).registry


def _show(done: str, summary: BackupSummary) -> None:
    typer.echo(
        f"{done}: {summary.num_versions} versions, {summary.num_blobs} blobs, {sum(summary.num_rows.values())} rows of "
        f"schema {summary.schema_revision}, as of {summary.created_at}"
    )
