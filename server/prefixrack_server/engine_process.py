"""The engine's process: the backbone, the engine's thread, and a socket for the front ends. Knows no HTTP, no SQL."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from prefixrack_server.admission import QueueLimits
from prefixrack_server.config import ServerConfig
from prefixrack_server.engine_server import EngineServer
from prefixrack_server.garbage_collector import settle
from prefixrack_server.http_server import new_event_loop
from prefixrack_server.logs import set_up_logging
from prefixrack_server.messages import Engine
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.blobs import BundleSource
from prefixrack_server.tether import Tether


@dataclass(frozen=True)
class EngineJob:
    """Its report of being ready: the backbone's `spec`, and `device`, `dtype` and `num_threads` in use."""

    config: ServerConfig
    backbone: Path
    socket: Path

    def run(self, tether: Tether) -> None:
        set_up_logging(self.config.http.log_level, self.config.http.log_format)
        from prefixrack_server.backbone_loading import load_backbone  # torch: not where the job is merely made
        from prefixrack_server.engine import EngineThread

        backbone, config = load_backbone(self.config, self.backbone)
        limits = QueueLimits(config.limits.max_queued_rows, config.limits.max_queued_tokens)
        engine = EngineThread(backbone, BundleSource(open_blobs(config.registry)), config.engine, queue_limits=limits)
        facts: dict[str, object] = {
            "spec": asdict(backbone.spec),
            "device": config.backbone.device,
            "dtype": config.backbone.dtype,
            "num_threads": config.engine.num_threads,
        }
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve_engine(engine, self.socket, tether, facts))


async def serve_engine(engine: Engine, path: Path, tether: Tether, facts: dict[str, object]) -> None:
    """Until the supervisor says stop; the front ends have gone by then."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def obey(sig: signal.Signals) -> None:
        if sig == signal.SIGINT:
            engine.hurry()
        loop.call_soon_threadsafe(stopping.set)

    async with EngineServer(engine).listening(path):
        settle()
        tether.ready(obey, **facts)
        await stopping.wait()
        await asyncio.to_thread(engine.stop)
