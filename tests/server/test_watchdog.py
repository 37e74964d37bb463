"""A hanging engine in one process: liveness says so within the limit. In several processes: test_supervisor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_server.engine_config import EngineConfig
from rack import BASE_URL, running_rack
from tiny import write_backbone, write_random_bundle

LIMIT_S = 600.0


def test_by_default_liveness_fails_in_less_than_fifteen_seconds() -> None:
    assert EngineConfig().max_silence_s + 1 < 15


async def test_a_pack_that_never_ends_fails_liveness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[float], None]
) -> None:
    backbone = Backbone.load(write_backbone(tmp_path / "backbone"), device="cpu")
    bundle = write_random_bundle(tmp_path / "intent", backbone.spec, name="intent")
    has_begun, goes_on, real_launch = threading.Event(), threading.Event(), backbone.launch

    def hang(pack: Sequence[PackRow]) -> Any:
        has_begun.set()
        goes_on.wait()
        return real_launch(pack)

    async with running_rack(backbone, tmp_path / "state", max_silence_s=LIMIT_S) as rack, rack.client() as client:
        await client.push("intent", bundle)
        monkeypatch.setattr(backbone, "launch", hang)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=rack.app), base_url=BASE_URL) as http:

            async def until_it_lives() -> None:
                while await live() == 503:  # noqa: ASYNC110 - the engine has no event for it
                    await asyncio.sleep(0.01)

            async def live() -> int:
                return (await http.get("/health/live")).status_code

            pass_time(LIMIT_S + 1)
            await until_it_lives()  # with nothing to do
            waiting = asyncio.create_task(client.predict("intent", "the cat"))
            await asyncio.to_thread(has_begun.wait)
            assert await live() == 200
            pass_time(LIMIT_S + 1)
            assert await live() == 503
            assert not waiting.done()
            goes_on.set()
            await waiting
            await until_it_lives()
