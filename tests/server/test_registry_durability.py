from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from obstore.exceptions import GenericError
from sqlalchemy import JSON, Connection, column, create_engine, event, insert, select, table, text
from sqlalchemy.exc import DBAPIError

from prefixrack.errors import AdapterNotFound, DiskFull
from prefixrack_adapters.bundle import digest_of
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_server.registry import Actor, BundleSource, LocalBlobStore, Registry, Version
from prefixrack_server.registry.migrations import upgrade
from prefixrack_server.registry.tables import metadata
from prefixrack_server.registry.transactions import ThreadTransactions
from prefixrack_server.upload import Spool

TENANT = "default"
NUM_ACKNOWLEDGED = 12


def manifest() -> Manifest:
    return Manifest(
        name="a",
        task="multiple-choice",
        backbone=BackboneRef(model_id="tiny", architecture="bert", fingerprint="0" * 64),
        prefix=PrefixSpec(prefix_len=0, num_layers=2, num_kv_heads=2, head_dim=4),
        head=HeadSpec(gather="first_token", layers=[DenseLayer(num_outputs=1)]),
        tokenization=TokenizationSpec(max_len=32),
        provenance=Provenance(tool="test", tool_version="0", method="p-tuning-v2"),
    )


@pytest.fixture
async def registry(tmp_path: Path, database_url: str) -> AsyncIterator[Registry]:
    registry = await open_registry(tmp_path, database_url)
    yield registry
    await registry.close()


async def open_registry(folder: Path, database_url: str) -> Registry:
    return await Registry.open(database_url, LocalBlobStore(folder / "blobs"))


async def upload(registry: Registry, folder: Path, seed: int, name: str = "a") -> Version:
    async with Spool(folder / "spool", 1_000_000).draft() as draft:
        contents = {"adapter.json": manifest().to_bytes(), "adapter.safetensors": f"{seed} ".encode() * 10_000}
        for file_name, content in contents.items():
            await draft.begin(file_name)
            await draft.write(content)
            await draft.end()
        version, _ = await registry.add_version(TENANT, name, await draft.finish(), manifest(), Actor("key1"))
    return version


async def upload_for_ever(folder: Path, database_url: str) -> None:
    """Runs in a process of its own until it is killed; a printed line is an acknowledgement."""
    registry = await open_registry(folder, database_url)
    for seed in range(1_000_000):
        version = await upload(registry, folder, seed, f"a{seed % 3}")
        print(version.name, version.number, version.digest, flush=True)


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def check_files(blobs: LocalBlobStore, version: Version) -> None:
    manifest_bytes, tensors_path = BundleSource(blobs).fetch(version.bundle)
    sha256s = [hashlib.sha256(content).hexdigest() for content in (manifest_bytes, tensors_path.read_bytes())]
    assert digest_of(*sha256s) == version.digest


def acknowledged_before_kill(folder: Path, database_url: str) -> list[tuple[str, int, str]]:
    command = [sys.executable, __file__, str(folder), database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(NUM_ACKNOWLEDGED)]
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout if line.endswith("\n")]
    assert process.returncode == -signal.SIGKILL
    return [(name, int(number), digest) for name, number, digest in (line.split() for line in lines)]


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, database_url: str) -> None:
    acknowledged = await asyncio.to_thread(acknowledged_before_kill, tmp_path, database_url)
    assert len(acknowledged) >= NUM_ACKNOWLEDGED
    Spool(tmp_path / "spool", 1_000_000)
    assert is_empty(tmp_path / "spool")
    registry = await open_registry(tmp_path, database_url)
    blobs = LocalBlobStore(tmp_path / "blobs")
    for name, number, digest in acknowledged:
        version = await registry.resolve(TENANT, f"{name}@{number}")
        assert version.digest == digest
        check_files(blobs, version)
    summaries, _ = await registry.list_adapters(TENANT, 10)
    for summary in summaries:
        check_files(blobs, await registry.resolve(TENANT, summary.name))
    await registry.close()


async def test_files_without_a_version_are_swept(registry: Registry, tmp_path: Path) -> None:
    kept = await upload(registry, tmp_path, 1)
    blobs = LocalBlobStore(tmp_path / "blobs")
    orphan = hashlib.sha256(b"orphan").hexdigest()
    blobs.put_bytes(orphan, b"orphan")
    assert await registry.sweep_orphans() == []
    assert await registry.sweep_orphans(min_age_s=-1) == [orphan]
    assert not blobs.exists(orphan)
    check_files(blobs, kept)


async def test_a_file_lost_before_the_sweep_is_no_fault(tmp_path: Path, database_url: str) -> None:
    now = datetime.now(UTC)
    blobs = LocalBlobStore(tmp_path / "blobs")
    registry = await Registry.open(database_url, blobs, clock=lambda: now)
    version = await upload(registry, tmp_path, 1)
    await registry.delete_version(TENANT, "a", 1)
    blobs.delete([version.bundle.manifest_sha256])
    now += timedelta(minutes=2)
    assert await registry.sweep_orphans() == [version.bundle.tensors_sha256]
    await registry.close()


async def test_a_full_blob_store_leaves_the_registry_as_it_was(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_args: Any, **_settings: Any) -> None:
        raise GenericError("Generic LocalFileSystem error: No space left on device (os error 28)")

    before = await upload(registry, tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", put)
        with pytest.raises(DiskFull, match="free some space"):
            await upload(registry, tmp_path, 2)
    assert await registry.resolve(TENANT, "a") == before
    assert is_empty(tmp_path / "spool")
    assert (await upload(registry, tmp_path, 2)).number == 2


async def test_a_full_spool_leaves_the_registry_as_it_was(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(DiskFull):
            await upload(registry, tmp_path, 1)
    with pytest.raises(AdapterNotFound):
        await registry.resolve(TENANT, "a")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_full_database_leaves_the_registry_as_it_was(registry: Registry, tmp_path: Path) -> None:
    """SQLite's own page limit gives the very error that a full disk gives."""
    transactions = registry._database._transactions
    assert isinstance(transactions, ThreadTransactions)
    engine = transactions._engine
    engine.dispose()

    def limit_pages(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    event.listen(engine, "connect", limit_pages)
    with pytest.raises(DiskFull, match="the registry"):
        await upload_many(registry, tmp_path)
    event.remove(engine, "connect", limit_pages)
    last = await registry.resolve(TENANT, "a")
    check_files(LocalBlobStore(tmp_path / "blobs"), last)
    assert (await registry.list_versions(TENANT, "a", 1))[0][0].version == last.number
    engine.dispose()
    assert (await upload(registry, tmp_path, 999)).number == last.number + 1


async def upload_many(registry: Registry, folder: Path) -> None:
    for seed in range(200):
        await upload(registry, folder, seed)


def blocking(database_url: str) -> str:
    return database_url.replace("postgresql:", "postgresql+psycopg:")


def test_the_migrations_make_the_tables(database_url: str) -> None:
    engine = create_engine(blocking(database_url))
    with engine.begin() as connection:
        upgrade(connection)
        upgrade(connection)
        assert compare(connection) == []
    engine.dispose()


def test_a_database_of_the_first_version_is_brought_up_to_date(database_url: str) -> None:
    engine = create_engine(blocking(database_url))
    key = {"id": "1", "tenant": "acme", "key_sha256": "0", "scopes": ["predict"], "created_at": "2026"}
    with engine.begin() as connection:
        upgrade(connection, "0001")
        connection.execute(text("INSERT INTO tenants (name, created_at) VALUES ('acme', '2026')"))
        columns = [column("scopes", JSON) if name == "scopes" else column(name) for name in key]
        connection.execute(insert(table("api_keys", *columns)).values(key))
        upgrade(connection)
        (tenant,) = connection.execute(select(metadata.tables["tenants"])).mappings()
        assert (tenant["weight"], tenant["adapters"], tenant["max_adapters"], tenant["disabled_at"]) == (
            1,
            [],
            None,
            None,
        )
        (found,) = connection.execute(select(metadata.tables["api_keys"])).mappings()
        new: dict[str, object] = {
            "expires_at": None,
            "revoked_at": None,
            "adapters": [],
            "name": None,
            "replaces": None,
        }
        assert dict(found) == key | new
    engine.dispose()


@pytest.mark.parametrize("change", ["UPDATE audit SET key_id = 'nobody'", "DELETE FROM audit"])
async def test_the_audit_log_can_only_grow(tmp_path: Path, database_url: str, change: str) -> None:
    registry = await open_registry(tmp_path, database_url)
    await upload(registry, tmp_path, 1)
    await registry.close()
    engine = create_engine(blocking(database_url))
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(change))
    engine.dispose()


def compare(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_opening_again_keeps_everything(tmp_path: Path, database_url: str) -> None:
    registry = await open_registry(tmp_path, database_url)
    made = await upload(registry, tmp_path, 1)
    await registry.put_alias(TENANT, "a", "production", 1)
    revision = await registry.revision()
    await registry.close()
    again = await open_registry(tmp_path, database_url)
    assert await again.resolve(TENANT, "a@production") == made
    assert await again.revision() == revision
    await again.close()


async def test_two_processes_may_open_a_new_database_at_once(tmp_path: Path, database_url: str) -> None:
    opened = await asyncio.gather(*(open_registry(tmp_path, database_url) for _ in range(3)))
    made = [await upload(registry, tmp_path, seed) for seed, registry in enumerate(opened)]
    assert [version.number for version in made] == [1, 2, 3]
    for registry in opened:
        await registry.close()


if __name__ == "__main__":
    asyncio.run(upload_for_ever(Path(sys.argv[1]), sys.argv[2]))
