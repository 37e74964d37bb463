"""The real app in this process: real engine, registry and routes on a tiny backbone, reached without a socket."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from prefixrack import AsyncClient
from prefixrack_adapters.backbone import Backbone
from prefixrack_server.app import create_app
from prefixrack_server.config import ServerConfig
from prefixrack_server.engine import EngineThread
from prefixrack_server.loader import AdapterSource
from prefixrack_server.registry.blobs import BundleSource, LocalBlobStore
from prefixrack_server.registry.registry import Registry
from prefixrack_server.services import Services

BASE_URL = "http://localhost"

SourceFactory = Callable[[LocalBlobStore], AdapterSource]


@dataclass(frozen=True)
class Rack:
    """A running app, and what stands behind it."""

    app: FastAPI
    engine: EngineThread
    registry: Registry

    @property
    def services(self) -> Services:
        services: Services = self.app.state.services
        return services

    def client(self) -> AsyncClient:
        """One caller. It sends nothing twice: what goes wrong once must be seen."""
        return AsyncClient(BASE_URL, max_retries=0, transport=httpx2.ASGITransport(app=self.app))


@asynccontextmanager
async def running_rack(
    backbone: Backbone, state_dir: Path, make_source: SourceFactory = BundleSource, **engine: Any
) -> AsyncIterator[Rack]:
    """Start the app with engine settings `engine`; the state folder is left as a stopped server leaves it."""
    sections: dict[str, Any] = {"http": {"auth": "none"}, "registry": {"state_dir": state_dir}, "engine": engine}
    config = ServerConfig(**sections)
    blobs = LocalBlobStore(config.registry.blobs_dir)
    registry = await Registry.open(config.registry.sqlalchemy_url, blobs)
    try:
        thread = EngineThread(
            backbone, make_source(blobs), config.engine, clock=time.monotonic
        )  # a test's, if it has one
        app = create_app(config, registry, thread, backbone.spec, backbone.tokenizer)
        async with app.router.lifespan_context(app):
            yield Rack(app, thread, registry)
    finally:
        await registry.close()
