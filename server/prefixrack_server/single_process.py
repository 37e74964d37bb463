"""A server in one process: the engine in a thread beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.reference import BesideReference
from prefixrack_server.admin_key import show_admin_key
from prefixrack_server.admission import QueueLimits
from prefixrack_server.app import create_app, running
from prefixrack_server.backbone_loading import load_backbone
from prefixrack_server.config import ServerConfig
from prefixrack_server.engine import EngineThread
from prefixrack_server.housekeeping import sweep
from prefixrack_server.http_server import DrainingServer, new_event_loop
from prefixrack_server.logs import log_config
from prefixrack_server.registry.blob_stores import open_blobs
from prefixrack_server.registry.blobs import BundleSource
from prefixrack_server.registry.registry import Registry


def serve_alone(
    config: ServerConfig, backbone_folder: Path, on_ready: Callable[[], None] | None, new_admin_key: bool
) -> None:
    """Returns after a signal has ended it in order."""
    backbone, config = load_backbone(config, backbone_folder)
    log_config(config)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config, backbone, on_ready, new_admin_key))


async def _serve(
    config: ServerConfig, backbone: Backbone | BesideReference, on_ready: Callable[[], None] | None, new_admin_key: bool
) -> None:
    blobs = open_blobs(config.registry)
    registry = await Registry.open(config.registry.sqlalchemy_url, blobs, grace_s=config.grace_s)
    try:
        await show_admin_key(config, registry, new_admin_key)
        queue_limits = QueueLimits(config.limits.max_queued_rows, config.limits.max_queued_tokens)
        engine = EngineThread(backbone, BundleSource(blobs), config.engine, queue_limits=queue_limits)
        app = create_app(config, registry, engine, backbone.spec, backbone.tokenizer)
        async with running(sweep(registry, config.registry.sweep_s)):
            await DrainingServer(config.http, app, on_ready).serve()
    finally:
        await registry.close()
