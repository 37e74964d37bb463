"""A front end: HTTP, registry and tokenising in one of several processes, the engine in another. Loads no torch."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer
from prefixrack_server.app import create_app, running
from prefixrack_server.config import ServerConfig
from prefixrack_server.engine_client import EngineClient
from prefixrack_server.http_server import Address, DrainingServer, new_event_loop, shared_socket
from prefixrack_server.logs import set_up_logging
from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.registry import Registry
from prefixrack_server.seat import Seat
from prefixrack_server.tether import Tether
from prefixrack_server.traffic import Traffic

BEAT_S: Final = 1.0


@dataclass(frozen=True)
class FrontEndJob:
    """`config` is resolved, the database migrated. `line` is that of this front end on the noticeboard."""

    config: ServerConfig
    spec: BackboneSpec
    backbone: Path
    engine: Path
    noticeboard: Path
    metrics: Path
    quotas: Path
    addresses: tuple[Address, ...]
    line: int

    def run(self, tether: Tether) -> None:
        set_up_logging(self.config.http.log_level, self.config.http.log_format)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._serve(tether))

    async def _serve(self, tether: Tether) -> None:
        config = self.config
        board = Noticeboard.open(self.noticeboard, self.line)
        board.post(0, 0)
        blobs = open_blobs(config.registry)
        registry = await Registry.open(
            config.registry.sqlalchemy_url, blobs, grace_s=config.grace_s, noticeboard=board, is_migrated=True
        )
        try:
            engine = await EngineClient.connect(self.engine, config.engine.drain_timeout_s)
            traffic = Traffic.open(self.metrics, config.metrics, self.line)
            seat = Seat(board, config.registry.spool_dir / str(self.line), self.metrics, traffic, self.quotas)
            tokenizer = BackboneTokenizer.load(self.backbone, self.spec)
            app = create_app(config, registry, engine, self.spec, tokenizer, seat)
            loop = asyncio.get_running_loop()

            def obey(sig: signal.Signals) -> None:
                loop.call_soon_threadsafe(server.handle_exit, sig)

            server = OrderedServer(config.http, app, lambda: tether.ready(obey))
            async with running(beat(board)):
                await server.serve([shared_socket(address) for address in self.addresses])
        finally:
            await registry.close()


async def beat(board: Noticeboard) -> None:
    """Show the supervisor that the event loop turns."""
    while True:
        board.beat()
        await asyncio.sleep(BEAT_S)


class OrderedServer(DrainingServer):
    """Signals come as orders, not to this process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
