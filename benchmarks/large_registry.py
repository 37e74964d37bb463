"""A server with 10,000 adapters registered: how soon it is ready, how large its metrics are, how long lists take.

Prints a JSON line for each database and exits with 1 where one misses its bound; see README.md here. What a start
costs against one without adapters is in start_up.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx2
import numpy as np
import typer
from rich.progress import track

from options import Backbone, Commit, Rounds
from prefixrack.types import UsageLine
from prefixrack_adapters.bundle import digest_of
from prefixrack_server.registry.aliases import Target
from prefixrack_server.registry.blobs import LocalBlobStore
from prefixrack_server.registry.principal import Actor
from prefixrack_server.registry.registry import DEFAULT_TENANT, Registry
from prefixrack_server.traffic import MAX_ROLLOUT_VERSIONS
from server_process import Server, path_of, serving
from stand import Stand, stand
from start_up import spooled
from turns import Spread, stderr
from workload import random_manifest, random_tensors, store_adapter

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from postgres_process import PostgresServer

DATABASES = ("sqlite", "postgresql")
BY = Actor("benchmarks")
PREFIX_LEN = 1
MANY_VERSIONS = 500  # of one adapter
NUM_TENANTS = NUM_KEYS = 500
DAYS = 7  # of usage, each with a line for every adapter
FAN_OUT = 20
PATTERN = "name-*7"
# More than have metrics of their own: each has three versions that are counted.
NUM_ROLLOUTS = MAX_ROLLOUT_VERSIONS // 2
ROLLOUT = Target(1, canary_number=2, canary_share=0.5, shadow_number=3)
ROUTING_KEYS = [f"caller-{number}" for number in range(8)]  # some for each version
WARM_UPS = 3
TIMEOUT_S = 120.0
# The bounds; those of milliseconds are for medians.
MAX_READY_S = 5.0
MAX_METRICS_BYTES = 2_000_000
MAX_METRICS_MS = 100.0
MAX_PAGE_MS = 50.0


@dataclass(frozen=True)
class Listing:
    """One list: where it is, and what it is asked for beside the page."""

    path: str
    query: Mapping[str, str | int]
    is_limited_key: bool = False


LISTINGS: Mapping[str, Listing] = {
    "adapters": Listing("/v1/adapters", {}),
    "adapters, 1000 a page": Listing("/v1/adapters", {"limit": 1000}),
    "adapters, search": Listing("/v1/adapters", {"search": "99"}),
    "adapters, search without a match": Listing("/v1/adapters", {"search": "nowhere"}),
    "adapters, key with a pattern": Listing("/v1/adapters", {}, is_limited_key=True),
    "versions": Listing("/admin/v1/adapters/name-0/versions", {}),
    "tenants": Listing("/admin/v1/tenants", {}),
    "keys": Listing("/admin/v1/keys", {}),
    "audit": Listing("/admin/v1/audit", {}),
    "audit, action": Listing("/admin/v1/audit", {"action": "alias."}),
    "usage": Listing("/admin/v1/usage", {}),
}


@dataclass(frozen=True)
class Keys:
    admin: str
    limited: str

    def headers(self, is_limited: bool) -> dict[str, str]:
        return {"X-API-Key": self.limited if is_limited else self.admin}


@dataclass(frozen=True)
class Times:
    median: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        median, p95, most = (round(float(value), 2) for value in np.percentile(values, [50, 95, 100]))
        return cls(median, p95, most)


@dataclass(frozen=True)
class Page:
    """`ms` is a request's whole time as the client sees it: median, 95th percentile and the longest."""

    number: int
    num_entries: int
    size_bytes: int
    ms: Times


def main(
    num_adapters: int = 10_000,
    database: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(DATABASES)}; both by default.")] = None,
    rounds: Rounds = 40,
    starts: Annotated[int, typer.Option(help="Starts that are timed.")] = 3,
    http_workers: Annotated[int, typer.Option(help="Front-end processes; 0 is one process for all.")] = 0,
    dtype: str = "float32",
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Fill a registry, start servers on it, have every adapter answer once, then ask for metrics and lists."""
    missed = []
    with stand(backbone, dtype=dtype, device="cpu", commit=commit) as here:
        for name in database or DATABASES:
            result = measure(here, name, num_adapters, rounds, starts, http_workers)
            setup = {"num_adapters": num_adapters, "database": name, "rounds": rounds, "starts": starts}
            setup["http_workers"] = http_workers
            here.emit("large-registry", setup, result)
            missed += [f"{name}: {bound}" for bound in misses(result)]
    if missed:
        stderr.print(f"bounds missed: {'; '.join(missed)}")
        raise typer.Exit(1)


def measure(
    here: Stand, database: str, num_adapters: int, rounds: int, starts: int, http_workers: int
) -> dict[str, Any]:
    state = here.work / database
    state.mkdir()
    with database_of(database, state) as url:
        settings = {"BACKBONE__DTYPE": here.dtype, "REGISTRY__DATABASE_URL": url, "HTTP__WORKERS": http_workers}
        keys, register_ms = asyncio.run(fill(here, state, url, num_adapters))
        ready_s = []
        for _ in range(starts):
            started_at = time.perf_counter()
            with serving(here.folder, None, here.work, settings, state=state, auth="keys") as server:
                ready_s.append(time.perf_counter() - started_at)
        with serving(here.folder, None, here.work, settings, state=state, auth="keys") as server:
            make_traffic(server, keys, num_adapters)
            metrics = metrics_page(server, rounds)
            pages = {name: list(time_pages(server, keys, listing, rounds)) for name, listing in LISTINGS.items()}
    return {
        "ready_s": asdict(Spread.of(ready_s)),
        "register_ms": register_ms,
        "metrics": asdict(metrics),
        "pages": {name: [asdict(page) for page in of_list] for name, of_list in pages.items()},
        "slowest_page_ms": asdict(max((page.ms for of_list in pages.values() for page in of_list), key=median_of)),
    }


def median_of(times: Times) -> float:
    return times.median


def misses(result: Mapping[str, Any]) -> Iterator[str]:
    if result["ready_s"]["median"] > MAX_READY_S:
        yield f"ready after {result['ready_s']['median']} s, {MAX_READY_S} are allowed"
    metrics = result["metrics"]
    if metrics["size_bytes"] > MAX_METRICS_BYTES or metrics["ms"]["median"] > MAX_METRICS_MS:
        yield f"metrics of {metrics['size_bytes']} bytes in {metrics['ms']['median']} ms"
    for name, pages in result["pages"].items():
        for page in pages:
            if page["ms"]["median"] > MAX_PAGE_MS:
                yield f"page {page['number']} of {name} in {page['ms']['median']} ms"


@contextmanager
def database_of(name: str, state: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if name == "sqlite":
        yield f"sqlite:///{state / 'registry.sqlite3'}"
        return
    if name not in DATABASES:
        raise SystemExit(f"there is no database {name!r}: they are {', '.join(DATABASES)}")
    server = PostgresServer()
    try:
        server.start()
        yield server.url()
    finally:
        server.close()


async def fill(here: Stand, state: Path, url: str, num_adapters: int) -> tuple[Keys, float]:
    """All adapters have the same tensors: they are told apart by their manifests, and lists read no tensors."""
    registry = await Registry.open(url, LocalBlobStore(state / "blobs"))
    try:
        shelf = Shelf(here, registry, state)
        started_at = time.perf_counter()
        for number in track(range(num_adapters), "registering", console=stderr, transient=True):
            await shelf.add(f"name-{number}", 1)
        register_ms = round(1e3 * (time.perf_counter() - started_at) / num_adapters, 3)
        await fill_the_rest(registry, shelf, num_adapters)
        return await make_keys(registry), register_ms
    finally:
        await registry.close()


class Shelf:
    """Adds versions to a registry."""

    def __init__(self, here: Stand, registry: Registry, folder: Path) -> None:
        self._registry = registry
        spec = here.backbone.spec
        manifest = random_manifest("first", spec, PREFIX_LEN)
        self._first = store_adapter(folder / "first", manifest, random_tensors(manifest, spec, [0]))
        self._upload = spooled(self._first)

    async def add(self, name: str, number: int) -> None:
        provenance = self._first.manifest.provenance.model_copy(update={"tool_version": str(number)})
        manifest = self._first.manifest.model_copy(update={"name": name, "provenance": provenance})
        content = manifest.to_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        digest = digest_of(sha256, self._upload.tensors_sha256)
        upload = replace(self._upload, manifest_bytes=content, manifest_sha256=sha256, digest=digest)
        await self._registry.add_version(DEFAULT_TENANT, name, upload, manifest, BY)


async def fill_the_rest(registry: Registry, shelf: Shelf, num_adapters: int) -> None:
    """What the other lists show, and as many rollouts as have metrics of their own."""
    for number in range(2, 2 + MANY_VERSIONS):
        await shelf.add("name-0", number)
    for number in range(1, min(num_adapters, 1 + NUM_ROLLOUTS)):
        await shelf.add(f"name-{number}", 2)
        await shelf.add(f"name-{number}", 3)
        await registry.put_alias(DEFAULT_TENANT, f"name-{number}", "production", ROLLOUT, by=BY)
    for number in range(NUM_TENANTS):
        await registry.create_tenant(f"tenant-{number}", by=BY)
    for _ in range(NUM_KEYS):
        await registry.create_key(DEFAULT_TENANT, ["predict"], by=BY)
    for day in range(DAYS):
        lines = [usage_line(f"name-{number}", day) for number in range(num_adapters)]
        await registry.add_usage(lines)


def usage_line(adapter: str, days_ago: int) -> UsageLine:
    day = (datetime.now(UTC).date() - timedelta(days=days_ago)).isoformat()
    return UsageLine(tenant=DEFAULT_TENANT, day=day, adapter=adapter, requests=1, rows=1, tokens=10)


async def make_keys(registry: Registry) -> Keys:
    admin = await registry.create_key(DEFAULT_TENANT, ["admin"])
    limited = await registry.create_key(DEFAULT_TENANT, ["adapters:read"], adapters=[PATTERN])
    assert admin.secret is not None
    assert limited.secret is not None
    return Keys(admin.secret, limited.secret)


def make_traffic(server: Server, keys: Keys, num_adapters: int) -> None:
    """A row of every adapter, and rows of every version of those with a rollout."""
    names = [f"name-{number}" for number in range(num_adapters)]
    headers = {**keys.headers(is_limited=False), "X-Request-Timeout-Ms": str(int(1000 * TIMEOUT_S))}
    with httpx2.Client(base_url=server.base_url, headers=headers, timeout=TIMEOUT_S) as http:
        for first in track(range(0, num_adapters, FAN_OUT), "rows", console=stderr, transient=True):
            body = {"adapters": names[first : first + FAN_OUT], "inputs": "a text"}
            answer = http.post("/v1/predict", json=body).raise_for_status().json()
            failed = [ref for ref, result in answer["results"].items() if "outputs" not in result]
            if failed:
                raise SystemExit(f"no answer of {failed[:3]}: {answer['results'][failed[0]]}")
        for name in names[1 : 1 + NUM_ROLLOUTS]:
            for key in ROUTING_KEYS:
                body = {"inputs": "a text", "routing_key": key}
                http.post(path_of(name), json=body).raise_for_status()


def metrics_page(server: Server, rounds: int) -> Page:
    with httpx2.Client(base_url=server.base_url, timeout=TIMEOUT_S) as http:
        content, times = time_requests(http, "/metrics", {}, rounds)
    return Page(1, content.count(b"\n"), len(content), times)


def time_pages(server: Server, keys: Keys, listing: Listing, rounds: int) -> Iterator[Page]:
    """The first page of a list, the middle one and the last one."""
    headers = keys.headers(listing.is_limited_key)
    with httpx2.Client(base_url=server.base_url, headers=headers, timeout=TIMEOUT_S) as http:
        cursors = all_cursors(http, listing)
        for index in sorted({0, len(cursors) // 2, len(cursors) - 1}):
            content, times = time_requests(http, listing.path, {**listing.query, **cursors[index]}, rounds)
            yield Page(index + 1, len(json.loads(content)["data"]), len(content), times)


def all_cursors(http: httpx2.Client, listing: Listing) -> list[dict[str, str]]:
    """What each page is asked for by."""
    cursors: list[dict[str, str]] = [{}]
    while True:
        page = http.get(listing.path, params={**listing.query, **cursors[-1]}).raise_for_status().json()
        if page["next_cursor"] is None:
            return cursors
        cursors.append({"cursor": page["next_cursor"]})


def time_requests(http: httpx2.Client, path: str, query: Mapping[str, str | int], rounds: int) -> tuple[bytes, Times]:
    milliseconds, content = [], b""
    for _ in range(WARM_UPS + rounds):
        started_at = time.perf_counter()
        content = http.get(path, params=query).raise_for_status().content
        milliseconds.append(1e3 * (time.perf_counter() - started_at))
    return content, Times.of(milliseconds[WARM_UPS:])


if __name__ == "__main__":
    typer.run(main)
