"""A registry whose database goes away and comes back: what is known goes on, what would be lost is refused."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from postgres_process import PostgresServer
from prefixrack.errors import AdapterNotFound, InvalidRequest, RegistryUnavailable
from prefixrack_adapters.bundle import digest_of
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.database_commands import app
from prefixrack_server.registry import Actor, LocalBlobStore, Registry
from prefixrack_server.registry.database import Database, utc_now
from prefixrack_server.registry.outage import PAUSE_S, Outage
from prefixrack_server.upload import SpooledBundle
from real_parts import running_postgres

TENANT = "default"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that the tests stop and start."""
    with running_postgres() as server:
        yield server


@pytest.fixture
async def registry(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Registry]:
    registry = await Registry.open(server.url(), LocalBlobStore(tmp_path / "blobs"))
    yield registry
    await registry.close()


@pytest.fixture
def make_version(bundles: Any, tmp_path: Path) -> Any:
    async def make(registry: Registry, name: str, seed: int) -> int:
        bundle = bundles(name, seed=seed)
        parts = (bundle.manifest_bytes, bundle.tensors_bytes)
        first, second = (hashlib.sha256(part).hexdigest() for part in parts)
        path = bundle.folder / "adapter.safetensors"
        upload = SpooledBundle(parts[0], path, first, second, len(parts[1]), digest_of(first, second), None)
        manifest = Manifest.model_validate(bundle.manifest)
        version, _ = await registry.add_version(TENANT, name, upload, manifest, Actor("key"))
        return version.number

    return make


async def until_it_answers(registry: Registry) -> None:
    for _ in range(2000):
        try:
            await registry.revision()
            return
        except RegistryUnavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("the database did not come back")


async def test_what_is_known_goes_on_and_writes_are_refused(
    server: PostgresServer, registry: Registry, make_version: Any
) -> None:
    await make_version(registry, "known", 1)
    known = await registry.resolve(TENANT, "known")
    secret = (await registry.create_key(TENANT, ["predict"])).secret
    assert secret is not None
    principal = await registry.authenticate(secret)
    server.stop("immediate")
    try:
        with pytest.raises(RegistryUnavailable):
            await registry.refresh()
        assert registry.is_away
        registry._forget()  # as after the revision of another replica
        assert await registry.resolve(TENANT, "known") == known
        assert await registry.authenticate(secret) == principal
        for refused in (
            registry.resolve(TENANT, "unknown"),
            registry.put_alias(TENANT, "known", "production", 1),
            make_version(registry, "known", 2),
            registry.list_adapters(TENANT, 10),
        ):
            with pytest.raises(RegistryUnavailable) as caught:
                await refused
            assert caught.value.retry_after_s == 1
        assert await registry.resolve(TENANT, "known") == known  # refused changes put nothing in doubt
    finally:
        server.start()
    await until_it_answers(registry)
    assert not registry.is_away
    with pytest.raises(AdapterNotFound):
        await registry.resolve(TENANT, "unknown")
    assert await make_version(registry, "known", 2) == 2
    assert (await registry.resolve(TENANT, "known")).number == 2


async def test_an_own_change_is_never_answered_by_what_was_before(
    server: PostgresServer, registry: Registry, make_version: Any
) -> None:
    await make_version(registry, "moved", 1)
    await registry.resolve(TENANT, "moved")
    await make_version(registry, "moved", 2)
    server.stop("immediate")
    try:
        with pytest.raises(RegistryUnavailable):
            await registry.resolve(TENANT, "moved")
    finally:
        server.start()
    await until_it_answers(registry)
    assert (await registry.resolve(TENANT, "moved")).number == 2


async def test_another_replicas_change_is_seen_after_an_outage(
    server: PostgresServer, registry: Registry, make_version: Any, tmp_path: Path
) -> None:
    await make_version(registry, "shared", 1)
    other = await Registry.open(server.url(), LocalBlobStore(tmp_path / "blobs"))
    assert (await other.resolve(TENANT, "shared")).number == 1
    server.stop()
    server.start()
    await until_it_answers(registry)
    assert await make_version(registry, "shared", 2) == 2
    await until_it_answers(other)
    await other.refresh()
    assert (await other.resolve(TENANT, "shared")).number == 2
    await other.close()


async def test_a_server_waits_for_its_database(server: PostgresServer, tmp_path: Path) -> None:
    server.stop()
    opening = asyncio.create_task(Database.open(server.url(), utc_now))
    try:
        await asyncio.sleep(0.2)
        assert not opening.done()
        with pytest.raises(RegistryUnavailable):
            await Database.open(server.url(), utc_now, patience_s=0)
    finally:
        server.start()
    database = await opening
    assert await database.schema_revision()
    await database.close()


async def test_what_the_database_cannot_take_is_the_requests_fault(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match="NUL"):
        await registry.list_adapters(TENANT, 10, search="a\0b")
    assert not registry.is_away


def test_the_command_brings_the_schema_up_to_date(server: PostgresServer, no_settings: Any, tmp_path: Path) -> None:
    for arguments in (["--database-url", server.url()], ["--state-dir", str(tmp_path)]):
        for _ in range(2):
            result = CliRunner().invoke(app, ["upgrade", *arguments])
            assert (result.exit_code, "revision" in result.output) == (0, True), result.output
    result = CliRunner().invoke(app, ["upgrade", "--database-url", "postgresql://nobody@127.0.0.1:9/x"])
    assert (result.exit_code, "does not answer" in result.output) == (2, True)
    result = CliRunner().invoke(app, ["upgrade", "--database-url", "mysql://x:secret@y/z"])
    assert (result.exit_code, "secret" in result.output) == (2, False)


def test_nobody_tries_within_the_pause() -> None:
    now = 0.0
    outage = Outage(lambda: now)
    outage.check()
    assert isinstance(outage.begin(), RegistryUnavailable)
    with pytest.raises(RegistryUnavailable):
        outage.check()
    now += PAUSE_S
    outage.check()
    assert outage.is_on
    outage.end()
    assert not outage.is_on
