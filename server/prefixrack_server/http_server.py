"""The HTTP server: uvicorn with our way of ending, and the addresses it listens on. Knows no engine and no torch."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from prefixrack_server.config import ConfigError, HttpConfig
from prefixrack_server.garbage_collector import settle
from prefixrack_server.one_write import OneWriteProtocol
from prefixrack_server.slow_clients import SlowClients

# Family and address, as the socket module wants them.
Address = tuple[socket.AddressFamily, Any]

CLOSE: Final = (b"connection", b"close")
TICK_S: Final = 0.1  # uvicorn's own


class DrainingServer(uvicorn.Server):
    """Reports not ready from the first signal on, and goes on accepting for `drain_s` before it shuts down."""

    def __init__(self, config: HttpConfig, app: FastAPI, on_ready: Callable[[], None] | None) -> None:
        self._http = config
        self._app = app
        self._on_ready = on_ready
        self._slow_clients = SlowClients(config.stall_timeout_s)
        self._ticks_per_sweep = max(1, min(10, int(config.stall_timeout_s / TICK_S / 4)))
        super().__init__(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                http=OneWriteProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=config.shutdown_grace_s,
                proxy_headers=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            if self.lifespan.should_exit:
                raise  # the app did not start, and its log line says why
            raise port_error(self._http.host, self._http.port, "see the log line above") from None
        if not self.started:
            return
        settle()
        if self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:
        # Unlike uvicorn's own, this does not raise the signal again at the end: the registry is still to be closed.
        phase = self._app.state.services.phase
        if self.should_exit and sig == signal.SIGINT:
            self._cut_off()
        elif phase.is_draining or not self._http.drain_s:
            self.should_exit = True
        else:
            asyncio.get_running_loop().call_later(self._http.drain_s, self._finish)
        if not phase.is_draining:
            self._part_with_connections()
        phase.drain()

    def _part_with_connections(self) -> None:
        """From now on every answer ends its connection: who comes again does so by the load balancer."""
        self.config.encoded_headers.append(CLOSE)  # of which uvicorn makes the default ones, once a second
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        for connection in list(self.server_state.connections):
            if isinstance(connection, OneWriteProtocol):
                connection.close_after_answer()

    async def on_tick(self, counter: int) -> bool:
        if counter % self._ticks_per_sweep == 0:
            self._slow_clients.sweep(self.server_state.connections)
        return await super().on_tick(counter)

    def _cut_off(self) -> None:
        """Ctrl-C again: wait for nothing. What is cut off now is no error worth a traceback."""
        self.force_exit = True
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        asyncio.get_running_loop().call_soon_threadsafe(self._app.state.services.engine.hurry)

    def _finish(self) -> None:
        self.should_exit = True


def new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def check_port(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen there; now, before the seconds that the backbone takes to load."""
    for address in addresses_of(host, port):
        with _bound(address, host, port):
            pass


@contextmanager
def reserved(host: str, port: int) -> Iterator[list[Address]]:
    """Hold addresses that several processes are going to listen on; the kernel spreads connections over them.

    Nothing listens yet: until the first of them does, connections are refused. Raises ConfigError.
    """
    with ExitStack() as stack:
        held: list[Address] = []
        for family, address in addresses_of(host, port):
            if held:
                address = (address[0], held[0][1][1], *address[2:])  # one port, that the system may have chosen
            listener = stack.enter_context(_bound((family, address), host, port, is_shared=True))
            held.append((family, listener.getsockname()))
        yield held


def shared_socket(address: Address) -> socket.socket:
    """This process's own socket on a reserved address."""
    return _bound(address, is_shared=True)


def addresses_of(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise port_error(host, port, error.strerror or str(error)) from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(address: Address, host: str = "", port: int = 0, is_shared: bool = False) -> socket.socket:
    family, place = address
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise port_error(host or place[0], port or place[1], error.strerror or str(error)) from None
    return listener


def port_error(host: str, port: int, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot listen on {host!r}, port {port} ({reason}): stop what uses it, or give another --port or --host"
    )
