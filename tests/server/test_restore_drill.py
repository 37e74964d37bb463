"""The runbook's ways back, command by command as it prints them: a point in time, and the drill of a whole backup."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from object_store import make_bucket, object_store
from postgres_process import PostgresServer, new_database
from prefixrack import Client
from prefixrack.errors import AdapterNotFound
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.registry import Actor, Registry
from prefixrack_server.registry.object_blobs import ObjectBlobStore
from real_parts import running_postgres
from serve_process import TIMEOUT_S, ServeProcess, free_port, wait_for
from specimens import make_specimens
from tiny import write_backbone

RUNBOOK = Path(__file__).parents[2] / "docs" / "operations.md"
TENANT = "default"


def commands(part: str) -> str:
    """The one block of the runbook with this in it."""
    blocks = re.findall(r"^```bash\n(.*?)^```", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    found: str
    (found,) = [block for block in blocks if part in block]
    return found


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectBlobStore]:
    with object_store() as endpoint:
        bucket = make_bucket(endpoint)
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield ObjectBlobStore.open(bucket.url, tmp_path / "cache", 1 << 30)


@contextmanager
def restored(postgres: PostgresServer, data: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(data)
    try:
        server.start()
        yield server
    finally:
        server.close()


async def test_the_database_goes_back_to_a_moment(blobs: ObjectBlobStore, bundles: Any) -> None:
    with running_postgres() as postgres:
        places = {name: postgres.folder / name.lower() for name in ("ARCHIVE", "BASE", "RESTORED")}
        postgres.run_script('mkdir "$ARCHIVE"', **places)
        here = {"DATABASE": postgres.url(), **places}
        postgres.run_script(commands("archive_command"), **here)
        postgres.stop()
        postgres.start()
        registry = await Registry.open(postgres.url(), blobs)
        for name in ("kept", "removed"):
            await add(registry, bundles(name))
        postgres.run_script(commands("pg_basebackup"), **here)
        await add(registry, bundles("later"))
        moment = now(postgres)
        await registry.delete_adapter(TENANT, "removed")
        await add(registry, bundles("too-late"))
        await registry.close()
        archive_all(postgres)
        postgres.run_script(commands("recovery.signal"), **here, MOMENT=moment)
        with restored(postgres, places["RESTORED"]) as server:
            wait_for(lambda: not is_recovering(server))
            again = await Registry.open(server.url(), blobs)
            names = [adapter.name for adapter in (await again.list_adapters(TENANT, 10))[0]]
            assert names == ["kept", "later", "removed"]
            version = await again.resolve(TENANT, "removed")
            assert (await again.open_bundle_files(version)).tensors_path.is_file()
            with pytest.raises(AdapterNotFound):
                await again.resolve(TENANT, "too-late")
            await again.close()


async def add(registry: Registry, bundle: Any) -> None:
    manifest = Manifest.model_validate(bundle.manifest)
    await registry.add_version(TENANT, bundle.name, bundle.spooled, manifest, Actor("key"))


def now(postgres: PostgresServer) -> str:
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("SELECT clock_timestamp()::text").fetchone()
    assert row is not None
    return str(row[0])


def archive_all(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        row = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        assert row is not None
        archived = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
        wait_for(lambda: bool((connection.execute(archived, row).fetchone() or [False])[0]))


def is_recovering(postgres: PostgresServer) -> bool:
    with psycopg.connect(postgres.url()) as connection:
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return row is None or bool(row[0])


def test_the_drill_answers_as_production_does(tmp_path: Path, postgres: str) -> None:
    backbone = Backbone.load(write_backbone(tmp_path / "backbone"), device="cpu")
    (specimen,) = make_specimens(backbone, tmp_path / "specimens", 1)
    with new_database(postgres) as database, new_database(postgres) as empty, object_store() as endpoint:
        bucket, empty_bucket = make_bucket(endpoint), make_bucket(endpoint)
        environment = {
            "PREFIXRACK_BACKBONE__PATH": str(tmp_path / "backbone"),
            "PREFIXRACK_BACKBONE__DTYPE": "float32",
            "PREFIXRACK_REGISTRY__DATABASE_URL": database,
            "PREFIXRACK_REGISTRY__BLOBS_URL": bucket.url,
            **bucket.environment,
        }
        state = f"--state-dir={tmp_path / 'state'}"
        production = ServeProcess(tmp_path, "serve", state, environment=environment)
        try:
            production.start()
            found = re.search(r"pr_\w{12}_[\w-]{43}", production.output())
            assert found is not None, production.output()
            with Client(production.base_url, found[0]) as client:
                client.push("mail", specimen.folder)
                answer = client.predict("mail", "ada").outputs[0].model_dump()
            output = run_drill(
                tmp_path,
                environment
                | {
                    "PREFIXRACK_API_KEY": found[0],
                    "DRILL_DATABASE_URL": empty,
                    "DRILL_BLOBS_URL": empty_bucket.url,
                    "DRILL_PORT": str(free_port()),
                    "ADAPTER": "mail",
                    "INPUT": '"ada"',
                },
            )
        finally:
            production.kill()
    assert answer["label"] in output.rsplit("mail", 1)[-1]


def run_drill(folder: Path, environment: dict[str, str]) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", commands("date +%F") + commands("drill.tar")],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=5 * TIMEOUT_S,  # six commands and a server
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
