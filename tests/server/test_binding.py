"""A request is bound to a version when it is admitted: slow loads, replacements and deletions do not touch it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event

import pytest

from prefixrack import AsyncClient
from prefixrack.types import PredictResponse
from prefixrack_adapters.backbone import Backbone
from prefixrack_server.messages import BundleRef
from prefixrack_server.registry.blobs import BundleSource, LocalBlobStore
from rack import running_rack
from specimens import PROBES, Specimen, is_close, make_specimens
from tiny import write_backbone

PATIENCE_S = 60.0  # for what never comes


class Gate:
    """Holds back the load of one version until it is opened."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.reached = Event()
        self.opened = Event()

    def source(self, blobs: LocalBlobStore) -> GatedSource:
        return GatedSource(BundleSource(blobs), self)


class GatedSource:
    def __init__(self, source: BundleSource, gate: Gate) -> None:
        self._source = source
        self._gate = gate

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        if bundle.digest == self._gate.digest:
            self._gate.reached.set()
            assert self._gate.opened.wait(PATIENCE_S), "the gate was never opened"
        return self._source.fetch(bundle)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(write_backbone(tmp_path_factory.mktemp("bert")), device="cpu")


@pytest.fixture
def specimens(backbone: Backbone, tmp_path: Path) -> list[Specimen]:
    return make_specimens(backbone, tmp_path / "bundles", 2)


@asynccontextmanager
async def gated(backbone: Backbone, state_dir: Path, gate: Gate) -> AsyncIterator[AsyncClient]:
    """A caller of a server where nothing is resident yet and one load stands still."""
    async with running_rack(backbone, state_dir, gate.source) as rack, rack.client() as client:
        try:
            yield client
        finally:
            gate.opened.set()


async def push(backbone: Backbone, state_dir: Path, **specimens: Specimen) -> None:
    """Register in an earlier life of the server."""
    async with running_rack(backbone, state_dir) as rack, rack.client() as client:
        for name, specimen in specimens.items():
            await client.push(name, specimen.folder)


async def ask(client: AsyncClient, name: str) -> PredictResponse:
    return await client.predict(name, list(PROBES), logits=True)


async def asked_and_held(client: AsyncClient, name: str, gate: Gate) -> asyncio.Task[PredictResponse]:
    """A request that has got as far as the gate."""
    held = asyncio.create_task(ask(client, name))
    assert await asyncio.to_thread(gate.reached.wait, PATIENCE_S), "the load never began"
    return held


def check(answer: PredictResponse, specimen: Specimen) -> None:
    assert answer.adapter.digest == specimen.digest
    for output, expected in zip(answer.outputs, specimen.answers, strict=True):
        assert is_close(output.model_dump(), expected)


async def test_a_slow_load_holds_up_nobody_else(backbone: Backbone, tmp_path: Path, specimens: list[Specimen]) -> None:
    slow, fast = specimens
    await push(backbone, tmp_path / "state", slow=slow, fast=fast)
    gate = Gate(slow.digest)
    async with gated(backbone, tmp_path / "state", gate) as client:
        held = await asked_and_held(client, "slow", gate)
        check(await ask(client, "fast"), fast)
        assert not held.done()
        gate.opened.set()
        check(await held, slow)


async def test_requests_in_flight_finish_on_their_version(
    backbone: Backbone, tmp_path: Path, specimens: list[Specimen]
) -> None:
    first, second = specimens
    await push(backbone, tmp_path / "state", moving=first)
    gate = Gate(first.digest)
    async with gated(backbone, tmp_path / "state", gate) as client:
        held = await asked_and_held(client, "moving", gate)
        await client.push("moving", second.folder)
        check(await ask(client, "moving"), second)
        await client.delete_version("moving", 1)
        assert not held.done()
        gate.opened.set()
        check(await held, first)
