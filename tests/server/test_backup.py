"""Backups: everything of a registry in one file, whole or refused, from either database into either."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from postgres_process import new_database
from prefixrack.errors import BlobUnusable
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.registry import Actor, LocalBlobStore, Registry
from prefixrack_server.registry.backup import (
    SUMS,
    BackupFault,
    check_backup,
    restore_backup,
    write_backup,
)
from prefixrack_server.registry.database import Database, utc_now

TENANT = "default"


class Store:
    """A registry's database and blobs in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.blobs = LocalBlobStore(folder / "blobs")

    async def registry(self) -> Registry:
        return await Registry.open(self.url, self.blobs)

    async def database(self, is_migrated: bool = False) -> Database:
        return await Database.open(self.url, utc_now, is_migrated)

    async def back_up(self, target: Path) -> Any:
        database = await self.database()
        try:
            return await write_backup(database, self.blobs, target)
        finally:
            await database.close()

    async def restore(self, source: Path) -> Any:
        database = await self.database(is_migrated=True)
        try:
            return await restore_backup(database, self.blobs, source)
        finally:
            await database.close()


@pytest.fixture
def store(tmp_path: Path, database_url: str) -> Store:
    return Store(tmp_path / "first", database_url)


@pytest.fixture(params=["sqlite", "postgresql"])
def other_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield Store(tmp_path / "second", f"sqlite+aiosqlite:///{tmp_path / 'second.sqlite3'}")
        return
    with new_database(request.getfixturevalue("postgres")) as url:
        yield Store(tmp_path / "second", url)


async def fill(store: Store, bundles: Any) -> str:
    """Some of everything; returns the secret of a key."""
    registry = await store.registry()
    for name, seed in (("a", 1), ("a", 2), ("b", 3), ("gone", 4)):
        bundle = bundles(name, seed=seed)
        upload, manifest = replace(bundle.spooled, card="# card é\n"), Manifest.model_validate(bundle.manifest)
        await registry.add_version(TENANT, name, upload, manifest, Actor("key"), f"key-{seed}")
    await registry.put_alias(TENANT, "a", "production", 1)
    await registry.set_kept(TENANT, "b", 1, True)
    await registry.delete_adapter(TENANT, "gone")
    secret = (await registry.create_key(TENANT, ["admin"])).secret
    await registry.close()
    assert secret is not None
    return secret


async def test_what_is_restored_is_what_was(store: Store, other_store: Store, bundles: Any, tmp_path: Path) -> None:
    secret = await fill(store, bundles)
    target = tmp_path / "backup.tar"
    summary = await store.back_up(target)
    assert (summary.num_versions, summary.num_blobs) == (3, 5)  # two versions have one manifest
    assert check_backup(target) == summary
    assert await other_store.restore(target) == summary
    before, after = await store.registry(), await other_store.registry()
    assert await after.revision() == await before.revision()
    for ref in ("a", "a@1", "a@2", "a@latest", "b"):
        version = await after.resolve(TENANT, ref)
        assert version == await before.resolve(TENANT, ref)
        files = await after.open_bundle_files(version)
        assert files.manifest_bytes == (await before.open_bundle_files(version)).manifest_bytes
        assert hashlib.sha256(files.tensors_path.read_bytes()).hexdigest() == version.bundle.tensors_sha256
    assert await after.list_aliases(TENANT, "a") == await before.list_aliases(TENANT, "a")
    assert await after.authenticate(secret) == await before.authenticate(secret)
    assert await after.list_audit(TENANT, 99) == await before.list_audit(TENANT, 99)
    assert [version.name for version in await after.kept()] == ["b"]
    await after.put_alias(TENANT, "b", "production", 1)  # it goes on: ids of the audit log too
    assert (await after.list_audit(TENANT, 1))[0][0].target == "b@production"
    for registry in (before, after):
        await registry.close()


@pytest.fixture
async def backup(tmp_path: Path, bundles: Any) -> Path:
    store = Store(tmp_path / "source", f"sqlite+aiosqlite:///{tmp_path / 'source.sqlite3'}")
    await fill(store, bundles)
    await store.back_up(tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


async def test_a_database_that_is_in_use_is_not_touched(store: Store, backup: Path, bundles: Any) -> None:
    await fill(store, bundles)
    with pytest.raises(BackupFault, match="not empty"):
        await store.restore(backup)
    registry = await store.registry()
    assert (await registry.resolve(TENANT, "a")).number == 1
    await registry.close()


def damaged(backup: Path, how: str) -> None:
    content = backup.read_bytes()
    if how == "cut short":
        with tarfile.open(backup) as tar:
            names = tar.getnames()
            cut = tar.getmember(names[-2]).offset
        backup.write_bytes(content[:cut] + bytes(1024))
    elif how == "cut in the middle":
        backup.write_bytes(content[: len(content) // 2])
    elif how == "a changed row":
        backup.write_bytes(content.replace(b'"production"', b'"productioN"'))
    elif how == "a changed blob":
        with tarfile.open(backup) as tar:
            at = next(member.offset_data for member in tar if member.name.startswith("blobs/"))
        backup.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    else:
        backup.write_bytes(b"something else " * 100)


@pytest.mark.parametrize("how", ["cut short", "cut in the middle", "a changed row", "a changed blob", "something else"])
async def test_a_damaged_backup_is_refused_and_changes_nothing(store: Store, backup: Path, how: str) -> None:
    damaged(backup, how)
    with pytest.raises(BackupFault):
        check_backup(backup)
    with pytest.raises(BackupFault):
        await store.restore(backup)
    registry = await store.registry()
    assert (await registry.list_adapters(TENANT, 10))[0] == []
    await registry.close()


async def test_a_damaged_blob_is_not_backed_up(store: Store, bundles: Any, tmp_path: Path) -> None:
    await fill(store, bundles)
    registry = await store.registry()
    version = await registry.resolve(TENANT, "b")
    await registry.close()
    path = store.blobs.local_path(version.bundle.tensors_sha256)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BackupFault, match="is damaged"):
        await store.back_up(tmp_path / "backup.tar")
    path.unlink()
    with pytest.raises(BlobUnusable):
        await store.back_up(tmp_path / "backup.tar")
    assert not [name for name in os.listdir(tmp_path) if name.startswith("backup")]  # noqa: PTH208 - in a coroutine


def test_the_sums_are_those_of_sha256sum(backup: Path) -> None:
    with tarfile.open(backup) as tar:
        sums = tar.extractfile(SUMS)
        assert sums is not None
        for line in sums.read().decode().splitlines():
            sha256, name = line.split("  ")
            content = tar.extractfile(name)
            assert content is not None
            assert hashlib.sha256(content.read()).hexdigest() == sha256


def test_the_commands(no_settings: Any, backup: Path, tmp_path: Path) -> None:
    import typer

    from prefixrack_server.backup_commands import backup as backup_command
    from prefixrack_server.backup_commands import restore

    app = typer.Typer()
    app.command("backup")(backup_command)
    app.command("restore")(restore)
    run = CliRunner().invoke
    checked = run(app, ["restore", "--check", str(backup)])
    assert "checked: 3 versions, 5 blobs" in checked.output, checked.output
    restored = run(app, ["restore", str(backup), "--state-dir", str(tmp_path / "state")])
    assert "restored: 3 versions" in restored.output, restored.output
    again = run(app, ["backup", str(tmp_path / "again.tar"), "--state-dir", str(tmp_path / "state")])
    assert "backed up: 3 versions" in again.output, again.output
    first, second = check_backup(backup), check_backup(tmp_path / "again.tar")
    assert replace(first, created_at="") == replace(second, created_at="")
    refused = run(app, ["backup", str(backup), "--state-dir", str(tmp_path / "state")])
    assert isinstance(refused.exception, BackupFault)
