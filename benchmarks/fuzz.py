"""Requests and bundles that nobody sends on purpose, for minutes, at a real server: no 5xx, no end of it, no growth.

Requests come from the API's own description, uploads are bundles with something changed; see README.md here. Prints one
JSON line with what was answered and the server's memory over time, and exits with 1 where a bound is missed.
"""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from machine import device_name, git_commit
from server_process import rss_bytes
from stand import print_line
from turns import stderr

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from bundle_mutations import CHANGED, RANDOM, Files, Mutation
from openapi_requests import operations_of, send_requests
from prefixrack_adapters.spec import BackboneSpec
from serve_process import ServeProcess
from tiny import write_backbone, write_random_bundle

NUM_REQUESTS = 10  # of an operation, or bundles of a kind, in a turn
SAMPLE_S = 1.0
CURVE_POINTS = 60
UPLOAD_PARTS = {"manifest": "adapter.json", "tensors": "adapter.safetensors"}
UNLIMITED = {
    "disabled": False,
    "weight": 1.0,
    "adapters": [],
    "quotas": dict.fromkeys(("requests_per_minute", "tokens_per_minute", "max_adapters", "max_bytes")),
}
# Between the second third of the time and the last one; caches of a server fill meanwhile, up to their bounds.
MAX_GROWTH = 0.05
SERVER_SETTINGS = {
    "PREFIXRACK_BACKBONE__DTYPE": "float32",
    # Full at once: what grows then is no cache of adapters.
    "PREFIXRACK_ENGINE__RESIDENT_BYTES": str(1 << 20),
    "PREFIXRACK_REGISTRY__SWEEP_S": "30",
}


@dataclass
class Tally:
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def note(self, status: int, request: Callable[[], str], content: bytes) -> None:
        self.statuses[status] += 1
        if status >= 500:
            self.failures.append(f"{status}: {request()} {content[:300]!r}")


@dataclass
class Memory:
    """The server's, once a second."""

    pid: int
    rss_bytes: list[int] = field(default_factory=list)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        is_over = threading.Event()

        def sample() -> None:
            while not is_over.wait(SAMPLE_S):
                self.rss_bytes.append(rss_bytes(self.pid))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def growth(self) -> float:
        """Of the last third's median against the second one's."""
        third = len(self.rss_bytes) // 3
        before, after = (median(part) for part in (self.rss_bytes[third : 2 * third], self.rss_bytes[2 * third :]))
        return round(after / before - 1.0, 4)

    def curve_mb(self) -> list[float]:
        step = max(1, len(self.rss_bytes) // CURVE_POINTS)
        return [round(value / 1e6, 1) for value in self.rss_bytes[::step]]


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the run.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Of the first turn; drawn by default.")] = None,
) -> None:
    """Fuzz a server on a tiny backbone."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    first_seed = random.randrange(1 << 32) if seed is None else seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = write_backbone(folder / "backbone")
        bundle = write_random_bundle(folder / "bundle", BackboneSpec.load(backbone), name="intent")
        paths = (f"--backbone={backbone}", f"--state-dir={folder / 'state'}")
        server = ServeProcess(folder, "serve", "--auth=none", "--log-level=error", *paths, environment=SERVER_SETTINGS)
        try:
            server.start()
            result = fuzz(server, Files.of(bundle), 60 * minutes, first_seed)
        finally:
            server.kill()
    print_line(git_commit(), device_name("cpu"), {"benchmark": "fuzz", "minutes": minutes, "seed": first_seed}, result)
    if result["failures"] or not result["is_alive"] or result["growth"] > MAX_GROWTH:
        raise typer.Exit(1)


def fuzz(server: ServeProcess, files: Files, seconds: float, first_seed: int) -> dict[str, Any]:
    tally, memory, num_turns = Tally(), Memory(server.pid), 0
    give_up_at = time.monotonic() + seconds
    with memory.sampled(), httpx2.Client(base_url=server.base_url, timeout=60) as http:
        document = http.get("/openapi.json").raise_for_status().json()
        operations = operations_of(document)
        for seed in itertools.count(first_seed):
            num_turns += 1
            for operation in operations:
                version = restore(http, files)
                fuzz_operation(operation, server.base_url, version, seed, tally)
                if time.monotonic() > give_up_at or not server.is_running:
                    break
            for mutation in (*RANDOM, *CHANGED):
                fuzz_uploads(http, mutation, files, seed, tally)
            if time.monotonic() > give_up_at or not server.is_running:
                break
            stderr.print(f"turn {num_turns}: {tally.statuses.total()} requests, {memory.rss_bytes[-1] / 1e6:.0f} MB")
        is_alive = server.is_running and http.get("/health/live").is_success
    return {
        "num_operations": len(operations),
        "num_turns": num_turns,
        "by_status": {str(status): count for status, count in sorted(tally.statuses.items())},
        "failures": tally.failures[:20],
        "is_alive": is_alive,
        "growth": memory.growth(),
        "rss_mb": memory.curve_mb(),
    }


def restore(http: httpx2.Client, files: Files) -> int:
    """What requests are about: one of them may have deleted the adapter or limited its tenant. Returns its version."""
    http.patch("/admin/v1/tenants/default", json=UNLIMITED).raise_for_status()
    answer = http.post("/admin/v1/adapters/intent/versions", files=parts_of(files)).raise_for_status()
    version: int = answer.json()["version"]
    return version


def fuzz_operation(operation: Any, base_url: str, version: int, seed: int, tally: Tally) -> None:
    def judge(case: Any, response: Any) -> None:
        tally.note(response.status_code, case.as_curl_command, response.content)

    send_requests(operation, base_url, NUM_REQUESTS, judge, version=version, seed=seed)


def fuzz_uploads(http: httpx2.Client, mutation: Mutation, files: Files, seed: int, tally: Tally) -> None:
    @seeded(seed)
    @settings(
        max_examples=NUM_REQUESTS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def upload(data: st.DataObject) -> None:
        answer = http.post("/admin/v1/adapters/changed/versions", files=parts_of(mutation(files, data)))
        tally.note(answer.status_code, lambda: f"an upload, {mutation.__name__}", answer.content)

    upload()


def parts_of(files: Files) -> dict[str, tuple[str, bytes]]:
    return {field: (name, getattr(files, field)) for field, name in UPLOAD_PARTS.items()}


def median(values: Sequence[int]) -> float:
    return float(sorted(values)[len(values) // 2])


if __name__ == "__main__":
    typer.run(main)
