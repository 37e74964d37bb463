"""How long a server takes to start with many adapters registered, and what memory, against one with none.

Prints one JSON line; see README.md here. The adapters are written into the registry by this process; the server finds
its state folder as an earlier server would have left it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.progress import track

from options import Backbone, Commit, Rounds
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE
from prefixrack_server.config import RegistryConfig
from prefixrack_server.registry.blobs import LocalBlobStore
from prefixrack_server.registry.principal import Actor
from prefixrack_server.registry.registry import DEFAULT_TENANT, Registry
from prefixrack_server.upload import SpooledBundle
from server_process import Server, serving
from stand import Stand, stand
from turns import Spread, stderr
from workload import RandomAdapter

NUM_ANSWERS = 20
NOBODY = Actor("benchmarks")


@dataclass(frozen=True)
class Started:
    ready_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Result:
    """`ready_s` from the start of the process to the first good health check.

    `first_answer_ms` of an adapter's first row, loading it included; `register_ms` of one adapter, by this process.
    """

    ready_s: Spread
    ready_without_adapters_s: Spread
    rss_bytes: Spread
    rss_without_adapters_bytes: Spread
    first_answer_ms: Spread
    register_ms: float


def main(
    num_adapters: int = 10_000,
    prefix_len: int = 16,
    rounds: Rounds = 3,
    dtype: str = "float32",
    backbone: Backbone = "minilm",
    commit: Commit = None,
) -> None:
    """Register adapters, then start servers."""
    with stand(backbone, dtype=dtype, device="cpu", commit=commit) as here:
        adapters = here.adapters(num_adapters, prefix_len)
        full, empty = here.work / "full", here.work / "empty"
        register_ms = register(full, adapters)
        starts: dict[Path, list[Started]] = {full: [], empty: []}
        answers_ms: list[float] = []
        for _ in track(range(rounds), "starts", console=stderr, transient=True):
            for state in (full, empty):
                with started(here, state) as (server, seen):
                    starts[state].append(seen)
                    answers_ms += first_answers_ms(server, here, adapters) if state == full else []
        result = Result(
            ready_s=Spread.of([seen.ready_s for seen in starts[full]]),
            ready_without_adapters_s=Spread.of([seen.ready_s for seen in starts[empty]]),
            rss_bytes=Spread.of([seen.rss_bytes for seen in starts[full]]),
            rss_without_adapters_bytes=Spread.of([seen.rss_bytes for seen in starts[empty]]),
            first_answer_ms=Spread.of(answers_ms),
            register_ms=register_ms,
        )
        here.emit(
            "start-up", {"num_adapters": num_adapters, "prefix_len": prefix_len, "rounds": rounds}, asdict(result)
        )
        stderr.print(
            f"ready after {result.ready_s} s with {num_adapters} adapters, {result.ready_without_adapters_s} s without"
        )


def register(state: Path, adapters: Sequence[RandomAdapter]) -> float:
    """Every adapter as a version in a state folder. Returns the milliseconds of one."""
    state.mkdir()
    started_at = time.perf_counter()
    asyncio.run(register_all(RegistryConfig(state_dir=state), adapters))
    return round(1e3 * (time.perf_counter() - started_at) / len(adapters), 3)


async def register_all(config: RegistryConfig, adapters: Sequence[RandomAdapter]) -> None:
    registry = await Registry.open(config.sqlalchemy_url, LocalBlobStore(config.blobs_dir))
    try:
        for adapter in track(adapters, "registering", console=stderr, transient=True):
            upload = spooled(adapter)
            await registry.add_version(DEFAULT_TENANT, adapter.name, upload, adapter.manifest, NOBODY)
    finally:
        await registry.close()


def spooled(adapter: RandomAdapter) -> SpooledBundle:
    tensors = adapter.folder / TENSORS_FILE
    return SpooledBundle(
        manifest_bytes=(adapter.folder / MANIFEST_FILE).read_bytes(),
        tensors_path=tensors,
        manifest_sha256=adapter.bundle.manifest_sha256,
        tensors_sha256=adapter.bundle.tensors_sha256,
        tensors_bytes=tensors.stat().st_size,
        digest=adapter.bundle.digest,
        card=None,
    )


@contextmanager
def started(here: Stand, state: Path) -> Iterator[tuple[Server, Started]]:
    started_at = time.perf_counter()
    with serving(here.folder, None, here.work, {"BACKBONE__DTYPE": here.dtype}, state=state) as server:
        yield server, Started(time.perf_counter() - started_at, server.rss_bytes())


def first_answers_ms(server: Server, here: Stand, adapters: Sequence[RandomAdapter]) -> Iterator[float]:
    """Of adapters all over the registry, one after the other."""
    chosen = adapters[:: max(1, len(adapters) // NUM_ANSWERS)]
    for adapter, text in zip(chosen, here.texts(len(chosen)), strict=True):
        asked_at = time.perf_counter()
        server.predict(adapter.name, text)
        yield 1e3 * (time.perf_counter() - asked_at)


if __name__ == "__main__":
    typer.run(main)
