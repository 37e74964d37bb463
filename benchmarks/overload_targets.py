"""What an overload is offered to: a server over HTTP, or the engine in this process. Knows tenants and due times."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx2

from engine_rounds import FolderSource
from open_loop import Answer, Call, message_of, run_calls
from prefixrack import Client
from prefixrack_server.admission import QueueLimits
from prefixrack_server.config import LimitsConfig, RegistryConfig
from prefixrack_server.engine import EngineThread
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.messages import RowDone, RowWork
from prefixrack_server.registry.blobs import LocalBlobStore
from prefixrack_server.registry.registry import Registry
from server_process import Server, path_of, rss_bytes, run_load, serving
from stand import Stand
from throughput import server_settings
from workload import RandomAdapter, Request

CONNECTIONS = 64
CAPACITY_S = 4
READY_S = 60.0
STATUS_OF_CODE = {"server_overloaded": 503, "queue_share_exceeded": 429, "deadline_exceeded": 504}


class Due(NamedTuple):
    """A request of a tenant, so many seconds after the start; its texts are sent in turn."""

    due_s: float
    tenant: str
    turn: int


class Counts(NamedTuple):
    """What the engine has counted since its start."""

    num_rows: float
    num_expired: float
    num_late: float
    num_packs: float
    num_tokens: float
    pack_s: float

    def since(self, before: Counts) -> Counts:
        return Counts(*(now - then for now, then in zip(self, before, strict=True)))


class Target(Protocol):
    def capacity(self) -> float:
        """Rows per second with as many callers as fill packs."""

    def run(self, load: Sequence[Due]) -> list[Answer]:
        """Send every request when it is due, and wait for all answers; each one's `kind` is its tenant."""

    def counts(self) -> Counts: ...

    def rss_bytes(self) -> int: ...

    def load_cpu_s(self) -> float:
        """What sending has taken so far."""


@dataclass(frozen=True)
class HttpTarget:
    """A server in a process of its own; this process is the load."""

    here: Stand
    server: Server
    requests: Sequence[Request]
    keys: Mapping[str, str]
    deadline_ms: int | None

    def capacity(self) -> float:
        pairs = [(request.adapter.name, request.text) for request in self.requests]
        key = next(iter(self.keys.values()))
        return run_load(self.server, pairs, CONNECTIONS, CAPACITY_S, self.here.work, key).rows_per_s

    def run(self, load: Sequence[Due]) -> list[Answer]:
        messages = {tenant: self._messages(key) for tenant, key in self.keys.items()}
        calls = [Call(due_s, tenant, messages[tenant][turn % len(self.requests)]) for due_s, tenant, turn in load]
        return run_calls(self.server.port, calls)

    def counts(self) -> Counts:
        lines = httpx2.get(f"{self.server.base_url}/metrics").text.splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("prefixrack_") and "{" not in line)
        names = (f"{name}_total" for name in ("rows", "expired_rows", "late_rows", "packs", "tokens"))
        return Counts(*(float(told[f"prefixrack_{name}"]) for name in (*names, "pack_seconds_sum")))

    def rss_bytes(self) -> int:
        return self.server.rss_bytes()

    def load_cpu_s(self) -> float:
        return time.process_time()

    def _messages(self, key: str) -> list[bytes]:
        headers = {"x_api_key": key}
        if self.deadline_ms is not None:
            headers["x_request_timeout_ms"] = str(self.deadline_ms)
        return [
            message_of("POST", path_of(request.adapter.name), json.dumps({"inputs": request.text}).encode(), **headers)
            for request in self.requests
        ]


@contextmanager
def over_http(
    here: Stand, requests: Sequence[Request], tenants: Sequence[str], deadline_ms: int | None
) -> Iterator[Target]:
    """Each tenant has all adapters."""
    state = Path(tempfile.mkdtemp(prefix="state-", dir=here.work))
    admin = asyncio.run(first_admin_key(state))
    with serving(here.folder, None, here.work, server_settings(here), state=state, auth="keys") as server:
        keys = {tenant: make_tenant(server, admin, tenant, requests) for tenant in tenants}
        yield HttpTarget(here, server, requests, keys, deadline_ms)


async def first_admin_key(state: Path) -> str:
    """Of a registry that is made for it."""
    config = RegistryConfig(state_dir=state)
    registry = await Registry.open(config.sqlalchemy_url, LocalBlobStore(config.blobs_dir))
    try:
        key = await registry.ensure_admin_key()
    finally:
        await registry.close()
    assert key is not None, "a new registry had a key already"
    return key


def make_tenant(server: Server, admin: str, name: str, requests: Sequence[Request]) -> str:
    """Its key. Its adapters are on the device afterwards."""
    with httpx2.Client(base_url=server.base_url, headers={"X-API-Key": admin}) as http:
        http.post("/admin/v1/tenants", json={"name": name}).raise_for_status()
        body = {"tenant": name, "scopes": ["predict", "adapters:write"]}
        key: str = http.post("/admin/v1/keys", json=body).raise_for_status().json()["secret"]
    with Client(server.base_url, key) as client:
        for request in {request.adapter.name: request for request in requests}.values():
            client.push(request.adapter.name, request.adapter.folder)
            client.predict(request.adapter.name, request.text)
    return key


class EngineTarget:
    """The engine's own thread in this process; the caller's thread is the load."""

    def __init__(self, engine: EngineThread, requests: Sequence[Request], deadline_ms: int | None) -> None:
        self._engine = engine
        self._requests = requests
        self._deadline_ms = deadline_ms
        self._done: queue.SimpleQueue[tuple[float, RowDone]] = queue.SimpleQueue()
        self._next_id = 0
        engine.start(self._deliver)

    def capacity(self) -> float:
        num_rows = len(self._requests)
        while True:
            started_at = time.monotonic()
            self._submit([self._row(turn, "capacity", None) for turn in range(num_rows)])
            for _ in range(num_rows):
                self._done.get()
            seconds = time.monotonic() - started_at
            if seconds >= CAPACITY_S / 2:
                return num_rows / seconds
            num_rows = int(num_rows * max(2.0, min(10.0, CAPACITY_S / seconds)))

    def run(self, load: Sequence[Due]) -> list[Answer]:
        first_id, started_at = self._next_id, time.monotonic()
        sent = sorted(load)
        late_s: list[float] = []
        for due_s, tenant, turn in sent:
            time.sleep(max(0.0, started_at + due_s - time.monotonic()))
            late_s.append(time.monotonic() - started_at - due_s)
            deadline = None if self._deadline_ms is None else started_at + due_s + self._deadline_ms / 1e3
            self._submit([self._row(turn, tenant, deadline)])
        answers = []
        for _ in sent:
            done_at, answer = self._done.get()
            place = answer.row_id - first_id
            due_s, tenant, _ = sent[place]
            answers.append(Answer(tenant, status_of(answer), done_at - started_at - due_s, late_s[place], due_s))
        return answers

    def counts(self) -> Counts:
        stats = self._engine.stats()
        return Counts(
            stats.num_rows,
            stats.num_expired,
            stats.num_late,
            stats.num_packs,
            stats.num_tokens,
            stats.pack_seconds.total,
        )

    def rss_bytes(self) -> int:
        return rss_bytes(os.getpid())

    def load_cpu_s(self) -> float:
        return time.thread_time()

    def _row(self, turn: int, tenant: str, deadline: float | None) -> RowWork:
        request = self._requests[turn % len(self._requests)]
        self._next_id += 1
        return RowWork(self._next_id - 1, request.row, request.adapter.bundle, deadline, tenant=tenant)

    def _submit(self, work: Sequence[RowWork]) -> None:
        self._engine.submit(work)

    def _deliver(self, answers: Sequence[RowDone]) -> None:
        now = time.monotonic()
        for answer in answers:
            self._done.put((now, answer))


def status_of(answer: RowDone) -> int:
    """As over HTTP."""
    return 200 if answer.failure is None else STATUS_OF_CODE.get(answer.failure.code, 500)


@contextmanager
def in_process(
    here: Stand, requests: Sequence[Request], tenants: Sequence[str], deadline_ms: int | None
) -> Iterator[Target]:
    limits = LimitsConfig()
    adapters: list[RandomAdapter] = [request.adapter for request in requests]
    engine = EngineThread(
        here.backbone,
        FolderSource(adapters),
        EngineConfig(num_threads=here.threads),
        queue_limits=QueueLimits(limits.max_queued_rows, limits.max_queued_tokens),
    )
    try:
        yield EngineTarget(engine, requests, deadline_ms)
    finally:
        engine.stop()


@contextmanager
def watched(target: Target, every_s: float) -> Iterator[list[int]]:
    """Its resident memory, sampled while the block runs."""
    seen = [target.rss_bytes()]
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(every_s):
            seen.append(target.rss_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


PATHS: Mapping[str, Any] = {"engine": in_process, "http": over_http}
