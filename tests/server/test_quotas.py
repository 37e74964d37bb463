"""Quotas: what a tenant may have computed in a minute and what it may store, over all front ends and servers."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.errors import StorageError

from prefixrack_server.config import ConfigError, QuotasConfig, load_config
from prefixrack_server.quota_storage import NUM_SETS, SLOTS_A_SET, SharedStorage, make_quota_file
from prefixrack_server.quotas import WINDOW_S, QuotaMeter, Window, fleet_storage
from real_parts import program

REDIS_URL = "PREFIXRACK_TEST_REDIS_URL"
TEXT = {"inputs": "hello"}
START = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Tenant:
    """One tenant's callers: a key that does everything in it."""

    def __init__(self, server: Any, headers: dict[str, str]) -> None:
        self.server = server
        self.headers = headers

    async def set(self, **quotas: int | None) -> None:
        await self.server.registry.change_tenant("default", quotas)

    async def predict(self, inputs: Any = "hello", ref: str = "intent") -> Any:
        return await self.server.client.post(f"/v1/{ref}/predict", json={"inputs": inputs}, headers=self.headers)

    async def upload(self, bundle: Any, name: str | None = None) -> Any:
        return await self.server.upload(bundle, name, **self.headers)


@pytest.fixture
async def tenant(serving: Any, bundles: Any) -> AsyncIterator[Tenant]:
    async with serving(http={"auth": "keys"}) as server:
        secret = await server.registry.ensure_admin_key()
        tenant = Tenant(server, {"X-API-Key": secret})
        assert (await tenant.upload(bundles("intent"))).status_code == 201
        yield tenant


async def test_requests_over_the_quota_are_refused_with_a_time(tenant: Tenant) -> None:
    await tenant.set(requests_per_minute=2)
    for remaining in (1, 0):
        answer = await tenant.predict()
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"requests";q=2;w=60;qu="requests"'
        assert answer.headers["ratelimit"].startswith(f'"requests";r={remaining};t=')
    refused = await tenant.predict()
    assert (refused.status_code, refused.json()["code"]) == (429, "request_quota_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 2 * WINDOW_S
    assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
    await tenant.set(requests_per_minute=None)
    answer = await tenant.predict()
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


async def test_tokens_over_the_quota_are_refused_and_not_computed(tenant: Tenant) -> None:
    used = (await tenant.predict()).json()["usage"]["tokens"]
    await tenant.set(tokens_per_minute=used * 2)
    for remaining in (used, 0):
        answer = await tenant.predict()
        assert answer.headers["ratelimit"].startswith(f'"tokens";r={remaining};t=')
    num_computed = tenant.server.engine.num_rows
    refused = await tenant.predict()
    assert (refused.status_code, refused.json()["code"]) == (429, "token_quota_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert tenant.server.engine.num_rows == num_computed


async def test_what_no_waiting_would_let_through_is_named(tenant: Tenant) -> None:
    await tenant.set(tokens_per_minute=5)
    refused = await tenant.predict("hello world good bad hello")
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_tokens")
    assert "'default' may have 5 a minute" in refused.json()["detail"]


async def test_a_fan_out_takes_the_tokens_of_all_its_adapters(tenant: Tenant, bundles: Any) -> None:
    await tenant.upload(bundles("other"))
    used = (await tenant.predict()).json()["usage"]["tokens"]
    await tenant.set(tokens_per_minute=used * 2, requests_per_minute=9)
    body = TEXT | {"adapters": ["intent", "other"]}
    answer = await tenant.server.client.post("/v1/predict", json=body, headers=tenant.headers)
    assert '"tokens";r=0;t=' in answer.headers["ratelimit"]
    assert '"requests";r=8;t=' in answer.headers["ratelimit"]
    refused = await tenant.server.client.post("/v1/predict", json=body, headers=tenant.headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "token_quota_exceeded")


async def test_a_bulk_body_waits_for_its_quota(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    used = (await tenant.predict()).json()["usage"]["tokens"]
    await tenant.set(tokens_per_minute=used * 2)
    clock, paused = Clock(), []
    tenant.server.app.state.services.quotas._own._clock = clock
    sleep = asyncio.sleep

    async def pass_a_minute(seconds: float) -> None:
        if seconds:
            paused.append(seconds)
            clock.now += WINDOW_S
        await sleep(0)

    monkeypatch.setattr("prefixrack_server.bulk.asyncio.sleep", pass_a_minute)
    lines = "".join(json.dumps({"inputs": "hello"}) + "\n" for _ in range(5))
    headers = tenant.headers | {"Content-Type": "application/jsonl"}
    answer = await tenant.server.client.post("/v1/intent/predict", content=lines, headers=headers)
    outputs = [json.loads(line) for line in answer.text.splitlines()]
    assert [output["index"] for output in outputs] == list(range(5))
    assert all("output" in output for output in outputs)
    assert paused


async def test_a_line_that_no_waiting_lets_through_fails_alone(tenant: Tenant) -> None:
    await tenant.set(tokens_per_minute=4)
    lines = '{"inputs": "hello"}\n{"inputs": "hello world good bad"}\n'
    headers = tenant.headers | {"Content-Type": "application/jsonl"}
    answer = await tenant.server.client.post("/v1/intent/predict", content=lines, headers=headers)
    outputs = [json.loads(line) for line in answer.text.splitlines()]
    assert "output" in outputs[0]
    assert outputs[1]["error"]["code"] == "too_many_tokens"


async def test_one_tenants_quota_is_none_of_another(tenant: Tenant, bundles: Any) -> None:
    await tenant.server.registry.create_tenant("acme", {"requests_per_minute": 0})
    made = await tenant.server.registry.create_key("acme", ["predict"])
    refused = await tenant.server.client.post("/v1/x/predict", json=TEXT, headers={"X-API-Key": made.secret})
    assert (refused.status_code, refused.json()["code"]) == (429, "request_quota_exceeded")
    answer = await tenant.predict()
    assert answer.status_code == 200
    assert "ratelimit" not in answer.headers


async def test_more_adapters_than_allowed_are_refused(tenant: Tenant, bundles: Any) -> None:
    await tenant.set(max_adapters=2)
    assert (await tenant.upload(bundles("second"))).status_code == 201
    refused = await tenant.upload(bundles("third"))
    assert (refused.status_code, refused.json()["code"]) == (403, "storage_quota_exceeded")
    assert (await tenant.upload(bundles("second", seed=5))).status_code == 201, "a version more is no adapter more"
    await tenant.server.client.delete("/admin/v1/adapters/intent", headers=tenant.headers)
    assert (await tenant.upload(bundles("third"))).status_code == 201


async def test_more_bytes_than_allowed_are_refused(tenant: Tenant, bundles: Any) -> None:
    shown = await tenant.server.client.get("/admin/v1/tenants/default", headers=tenant.headers)
    stored = shown.json()["stored"]
    assert stored["num_adapters"] == 1
    await tenant.set(max_bytes=stored["num_bytes"] * 2 - 1)
    refused = await tenant.upload(bundles("intent", seed=5))
    assert (refused.status_code, refused.json()["code"]) == (403, "storage_quota_exceeded")
    assert (await tenant.upload(bundles("intent"))).status_code == 200, "what is there already needs no room"
    await tenant.set(max_bytes=stored["num_bytes"] * 2 + 9)
    assert (await tenant.upload(bundles("intent", seed=5))).status_code == 201


async def test_uploads_at_once_do_not_take_the_same_room(tenant: Tenant, bundles: Any) -> None:
    await tenant.set(max_adapters=3)
    answers = await asyncio.gather(*(tenant.upload(bundles(f"new-{number}")) for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403, 403]


@given(
    quota=st.integers(1, 1000),
    amounts=st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 90)), max_size=30),
    wanted=st.integers(1, 1000),
)
def test_after_the_named_time_it_fits(quota: int, amounts: list[tuple[int, float]], wanted: int) -> None:
    """Whatever was taken before; and no minute of the clock ever has more than the quota."""
    clock = Clock()
    storage = SharedStorage(clock=clock)
    wanted = min(wanted, quota)
    taken: list[tuple[float, int]] = []

    async def run() -> None:
        for amount, pause_s in amounts:
            if await storage.acquire_sliding_window_entry("k", quota, WINDOW_S, amount):
                taken.append((clock.now, amount))
            clock.now += pause_s
        window = Window(*await storage.get_sliding_window("k", WINDOW_S))
        wait_s = window.wait_s(quota, wanted)
        assert 0 <= wait_s <= 2 * WINDOW_S
        clock.now += wait_s + 0.001
        assert await storage.acquire_sliding_window_entry("k", quota, WINDOW_S, wanted)

    asyncio.run(run())
    storage.close()
    for minute in {int(at // WINDOW_S) for at, _ in taken}:
        assert sum(amount for at, amount in taken if int(at // WINDOW_S) == minute) <= quota


async def test_many_keys_are_counted_apart() -> None:
    storage = SharedStorage(clock=Clock())
    keys = [f"requests/tenant-{number}" for number in range(NUM_SETS)]
    for key in keys:
        assert await storage.acquire_sliding_window_entry(key, 1, WINDOW_S)
    assert not any([await storage.acquire_sliding_window_entry(key, 1, WINDOW_S) for key in keys])
    storage.close()


async def test_a_full_set_gives_up_what_was_used_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixrack_server.quota_storage.NUM_SETS", 1)
    storage = SharedStorage(clock=Clock())
    for number in range(SLOTS_A_SET):
        assert await storage.acquire_sliding_window_entry(f"k{number}", 9, WINDOW_S, 1 + (number > 0))
    assert await storage.acquire_sliding_window_entry("new", 9, WINDOW_S, 2)
    assert [(await storage.get_sliding_window(f"k{number}", WINDOW_S))[2] for number in (0, 1)] == [0, 2]
    storage.close()


def take_for_ever(path: Path, quota: int) -> int:
    async def run() -> int:
        storage = SharedStorage(path, Clock())
        return sum([await storage.acquire_sliding_window_entry("k", quota, WINDOW_S) for _ in range(quota)])

    return asyncio.run(run())


def test_processes_count_together(tmp_path: Path) -> None:
    path = tmp_path / "quotas"
    make_quota_file(path)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        counts = pool.starmap(take_for_ever, [(path, 500)] * 3)
    assert sum(counts) == 500


class Broken:
    """A fleet's storage that is away."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def acquire_sliding_window_entry(self, *_: Any) -> bool:
        self.num_asked += 1
        raise StorageError(ConnectionError("away"))

    async def get_sliding_window(self, *_: Any) -> Any:
        raise AssertionError("never reached")


async def test_a_server_counts_alone_while_the_fleets_storage_is_away() -> None:
    clock, broken = Clock(), Broken()
    meter = QuotaMeter(SharedStorage(clock=clock), broken, timer=clock)
    assert [(await meter.take("requests", "acme", 2, 1))[0] for _ in range(3)] == [True, True, False]
    assert broken.num_asked == 1
    clock.now += 6
    await meter.take("requests", "acme", 2, 1)
    assert broken.num_asked == 2


@pytest.mark.parametrize("url", ["localhost:6379", "memcached://h", ""])
def test_another_storage_is_refused_at_start(no_settings: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ConfigError, match="redis://") as caught:
        load_config({"quotas": {"redis_url": url}})
    assert not url or url not in str(caught.value)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of these tests' own, on a socket, or the one that the environment names."""
    if REDIS_URL in os.environ:
        yield os.environ[REDIS_URL]
        return
    server = program("redis-server", f"apt-get install redis-server, or set {REDIS_URL}")
    folder = tmp_path_factory.mktemp("redis")
    command = [server, "--port", "0", "--unixsocket", "redis.sock", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder) as process:
        while not (folder / "redis.sock").exists():
            assert process.poll() is None, "Redis does not start"
            time.sleep(0.01)
        yield f"redis+unix://{folder}/redis.sock?db=0"
        process.terminate()


async def test_servers_count_together_in_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixrack_server.quotas.FLEET_TIMEOUT_S", 60.0)  # else a slow machine counts alone
    meters = [QuotaMeter(SharedStorage(), fleet_storage(QuotasConfig(redis_url=redis_url))) for _ in range(2)]
    tenant = os.urandom(8).hex()
    taken = [(await meters[number % 2].take("requests", tenant, 5, 1))[0] for number in range(7)]
    assert taken == [True] * 5 + [False] * 2
    is_taken, window = await meters[0].take("requests", tenant, 5, 1)
    assert not is_taken
    assert window.remaining(5) == 0
    assert 1 <= window.wait_s(5, 1) <= 2 * WINDOW_S
    assert not (await meters[1]._own.get_sliding_window(f"requests/{tenant}", WINDOW_S))[2]
    for meter in meters:
        await meter.close()
