"""A hanging engine in one process: liveness says so within the limit. In several processes: test_supervisor."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx2
import pytest

from prefixrack_adapters.backbone import Backbone
from prefixrack_server.engine_config import EngineConfig
from rack import BASE_URL, running_rack
from tiny import write_backbone, write_random_bundle


def test_by_default_liveness_fails_in_less_than_fifteen_seconds() -> None:
    assert EngineConfig().max_silence_s + 1 < 15


async def test_a_pack_that_never_ends_fails_liveness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(write_backbone(tmp_path / "backbone"), device="cpu")
    bundle = write_random_bundle(tmp_path / "intent", backbone.spec, name="intent")
    goes_on, real_launch = threading.Event(), backbone.launch
    async with running_rack(backbone, tmp_path / "state", max_silence_s=0.5) as rack, rack.client() as client:
        await client.push("intent", bundle)
        monkeypatch.setattr(backbone, "launch", lambda pack: goes_on.wait() and real_launch(pack))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=rack.app), base_url=BASE_URL) as http:

            async def live() -> int:
                return (await http.get("/health/live")).status_code

            assert await live() == 200
            waiting = asyncio.create_task(client.predict("intent", "the cat"))
            while await live() == 200:  # noqa: ASYNC110 - time itself is what is waited for
                await asyncio.sleep(0.01)
            assert not waiting.done()
            goes_on.set()
            await waiting
            while await live() == 503:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.01)
