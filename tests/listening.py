"""A test's app behind the server's own HTTP server, on a port; its lifespan is the fixture's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from prefixrack_server.front_end import OrderedServer


class Listening:
    def __init__(self, server: Any) -> None:
        self.server = server
        self.http = OrderedServer(server.config.http.model_copy(update={"port": 0}), server.app, None)
        self.http.config.lifespan = "off"  # the fixture's

    @property
    def port(self) -> int:
        port: int = self.http.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def num_rows(self) -> int:
        num_rows: int = self.server.app.state.services.dispatcher.num_rows
        return num_rows

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def look_for_slow_clients(self) -> None:
        """Now; the server does so by itself once a second."""
        self.http._slow_clients.sweep(self.http.server_state.connections)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def predict(self) -> int:
        async with httpx2.AsyncClient(base_url=self.base_url, timeout=60) as client:
            return (await client.post("/v1/intent/predict", json={"inputs": "hello"})).status_code
