"""Tenants with several front ends: what one of them counts or changes holds in all of them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from prefixrack import Client, NotFoundError, PermissionDeniedError
from prefixrack_adapters.spec import BackboneSpec
from serve_process import TIMEOUT_S, ServeProcess, wait_for
from tiny import write_backbone, write_random_bundle

NUM_FRONT_ENDS = 2
NUM_CALLS = 40  # on connections of their own: so many do not all go to one front end
QUOTA = 10
NUM_TRIES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tenants")
    backbone = write_backbone(folder / "backbone")
    write_random_bundle(folder / "intent", BackboneSpec.load(backbone), name="intent")
    return folder


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[ServeProcess]:
    paths = {"backbone": folder / "backbone", "state-dir": folder / "state"}
    arguments = [f"--{option}={path}" for option, path in paths.items()]
    process = ServeProcess(folder, "serve", "--dtype=float32", *arguments, f"--http-workers={NUM_FRONT_ENDS}")
    process.start()
    wait_for(lambda: process.output().count("a front end takes requests") >= NUM_FRONT_ENDS)
    yield process
    process.kill()


@pytest.fixture
def admin(process: ServeProcess) -> Iterator[Client]:
    found = re.search(r"pr_[0-9a-f]+_[\w-]{43}", process.output())
    assert found is not None
    with Client(process.base_url, found[0], timeout_s=TIMEOUT_S) as client:
        yield client


def key_of(admin: Client, tenant: str) -> str:
    secret = admin.create_key(["predict", "adapters:read"], tenant=tenant).secret
    assert secret is not None
    return secret


def predict(process: ServeProcess, key: str) -> httpx2.Response:
    """One request, on a connection of its own."""
    url = f"{process.base_url}/v1/intent/predict"
    return httpx2.post(url, json={"inputs": "the cat sat"}, headers={"X-API-Key": key}, timeout=TIMEOUT_S)


def test_a_quota_is_that_of_all_front_ends(process: ServeProcess, admin: Client, folder: Path) -> None:
    """Where a minute turned meanwhile, which lets a few more through, another tenant asks."""
    for number in range(NUM_TRIES):
        tenant = f"limited-{number}"
        admin.create_tenant(tenant, quotas={"requests_per_minute": QUOTA})
        key = key_of(admin, tenant)
        admin.push(f"{tenant}:intent", folder / "intent")
        minute = time.time() // 60
        statuses = Counter(predict(process, key).status_code for _ in range(NUM_CALLS))
        if time.time() // 60 == minute:
            break
    assert statuses == {200: QUOTA, 429: NUM_CALLS - QUOTA}


def test_tenants_are_apart_in_every_front_end(process: ServeProcess, admin: Client, folder: Path) -> None:
    for tenant in ("with", "without"):
        admin.create_tenant(tenant)
    admin.push("with:intent", folder / "intent")
    keys = {tenant: key_of(admin, tenant) for tenant in ("with", "without")}
    assert {predict(process, keys["with"]).status_code for _ in range(NUM_CALLS)} == {200}
    assert {predict(process, keys["without"]).status_code for _ in range(NUM_CALLS)} == {404}
    with Client(process.base_url, keys["without"]) as client, pytest.raises(NotFoundError):
        client.get_adapter("with:intent")
    admin.update_tenant("with", disabled=True)
    assert {predict(process, keys["with"]).status_code for _ in range(NUM_CALLS)} == {403}
    with Client(process.base_url, keys["with"]) as client, pytest.raises(PermissionDeniedError):
        client.get_adapter("intent")


def test_usage_of_all_front_ends_adds_up(process: ServeProcess, admin: Client, folder: Path) -> None:
    admin.create_tenant("busy")
    admin.push("busy:intent", folder / "intent")
    key = key_of(admin, "busy")
    for _ in range(NUM_CALLS):
        assert predict(process, key).status_code == 200
    wait_for(lambda: sum(line.requests for line in admin.list_usage(tenant="busy")) == NUM_CALLS)
