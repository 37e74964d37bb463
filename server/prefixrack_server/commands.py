"""The `prefixrack serve` command: settings to a running server. The only module here that needs torch, and only inside
the command."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefixrack.errors import UnsupportedBackbone
from prefixrack_server.allocator import keep_freed_memory
from prefixrack_server.config import ConfigError, ServerConfig, describe, load_config, resolve

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from prefixrack_adapters.backbone import Backbone
    from prefixrack_server.registry.registry import Registry

# Threads hand the interpreter over after this; at the default of 5 ms the event loop slows packs by a fifth.
SWITCH_INTERVAL_S = 0.001


def serve(
    backbone: Annotated[str | None, typer.Option(help="Folder, hub id, or 'embedded'. [default: embedded]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8000]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto. [default: auto]")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder for database, bundles and spool. [default: prefixrack-data]")
    ] = None,
    auth: Annotated[
        str | None, typer.Option(help="keys, or none (everybody may do everything; loopback only). [default: keys]")
    ] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder whose bundles are registered at start.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")] = None,
    new_admin_key: Annotated[
        bool, typer.Option("--new-admin-key", help="Print one more admin API key at start, if the others are lost.")
    ] = False,
) -> None:
    """Serve adapters on one frozen backbone over HTTP.

    Every setting, those without an option too, can be given in the environment: PREFIXRACK_<SECTION>__<KEY>.
    """
    try:
        config = load_config(
            {
                "http": {"host": host, "port": port, "auth": auth, "log_level": log_level},
                "backbone": {"path": backbone, "device": device, "dtype": dtype},
                "registry": {"state_dir": state_dir, "adapters_dir": adapters},
            }
        )
        check_paths(config)
        run(config, new_admin_key=new_admin_key)
    except (ConfigError, UnsupportedBackbone) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def check_paths(config: ServerConfig) -> None:
    """Raises ConfigError for a folder that is not there."""
    if not config.backbone.path:
        raise ConfigError("setting backbone.path is not set: give --backbone: a folder, a hub id or 'embedded'")
    adapters_dir = config.registry.adapters_dir
    if adapters_dir is not None and not adapters_dir.is_dir():
        raise ConfigError(f"setting registry.adapters_dir: {str(adapters_dir)!r} is not a folder")


def check_port(host: str, port: int) -> None:
    """Raises ConfigError where nothing can listen there; now, before the seconds that the backbone takes to load."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
    except OSError as error:
        raise port_error(host, port, error.strerror or str(error)) from None


def port_error(host: str, port: int, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot listen on {host!r}, port {port} ({reason}): stop what uses it, or give another --port or --host"
    )


def run(config: ServerConfig, on_ready: Callable[[], None] | None = None, *, new_admin_key: bool = False) -> None:
    """Load the backbone and serve until a signal ends it; `on_ready` is called once requests are answered."""
    from prefixrack_server.state_folder import claimed

    check_port(config.http.host, config.http.port)
    with claimed(config.registry.state_dir):
        _run(config, on_ready, new_admin_key)


def _run(config: ServerConfig, on_ready: Callable[[], None] | None, new_admin_key: bool) -> None:
    from prefixrack_adapters.embedded import resolve_backbone
    from prefixrack_server.logs import set_up_logging

    folder = resolve_backbone(config.backbone.path)  # before the seconds that torch takes to load
    import torch
    from transformers.utils.logging import disable_progress_bar

    from prefixrack_adapters.backbone import Backbone

    if not sys.stderr.isatty():
        disable_progress_bar()  # the loading bar belongs on a terminal, not in a log
    set_up_logging(config.http.log_level, config.http.log_format)
    keep_freed_memory()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # this thread computes nothing: OpenMP threads of its own would slow the engine's
    backbone = Backbone.load(folder, device=config.backbone.device, dtype=config.backbone.dtype)
    backbone.optimise_for_inference()
    dtype: Any = str(backbone.dtype).removeprefix("torch.")
    config = resolve(config, str(backbone.device), dtype, num_threads)
    _log_config(config)
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        runner.run(_serve(config, backbone, on_ready, new_admin_key))


def _log_config(config: ServerConfig) -> None:
    import structlog

    structlog.stdlib.get_logger("prefixrack.serve").info("configuration", **describe(config))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


async def _serve(
    config: ServerConfig, backbone: Backbone, on_ready: Callable[[], None] | None, new_admin_key: bool
) -> None:
    from prefixrack_server.registry.blobs import LocalBlobStore
    from prefixrack_server.registry.registry import Registry

    blobs = LocalBlobStore(config.registry.blobs_dir)
    registry = await Registry.open(config.registry.sqlalchemy_url, blobs, grace_s=config.grace_s)
    try:
        await show_admin_key(config, registry, new_admin_key)
        app = _build_app(config, registry, blobs, backbone)
        await _server(config, app, on_ready).serve()
    finally:
        await registry.close()


def _build_app(config: ServerConfig, registry: Registry, blobs: Any, backbone: Backbone) -> FastAPI:
    from prefixrack_server.app import create_app
    from prefixrack_server.engine import EngineThread
    from prefixrack_server.registry.blobs import BundleSource

    engine = EngineThread(backbone, BundleSource(blobs), config.engine)
    return create_app(config, registry, engine, backbone.spec, backbone.tokenizer)


async def show_admin_key(config: ServerConfig, registry: Registry, is_new_wanted: bool = False) -> None:
    """Print the first administrator's key, or one more where that is wanted, the one time that it can be known."""
    if config.http.auth == "none" and not is_new_wanted:
        return
    secret = await (registry.new_admin_key() if is_new_wanted else registry.ensure_admin_key())
    if secret is not None:
        typer.echo(f"\nAdmin API key, shown this once: {secret}\n  export PREFIXRACK_API_KEY={secret}\n")


def _server(config: ServerConfig, app: FastAPI, on_ready: Callable[[], None] | None) -> uvicorn.Server:
    import uvicorn

    class DrainingServer(uvicorn.Server):
        """Reports not ready from the first signal on, and goes on accepting for `drain_s` before it shuts down."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit:
                if self.lifespan.should_exit:
                    raise  # the app did not start, and its log line says why
                raise port_error(config.http.host, config.http.port, "see the log line above") from None
            if self.started and on_ready is not None:
                on_ready()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Unlike uvicorn's own, this does not raise the signal again at the end: the registry is still to be closed.
            phase = app.state.services.phase
            if self.should_exit and sig == signal.SIGINT:
                self._cut_off()
            elif phase.is_draining or not config.http.drain_s:
                self.should_exit = True
            else:
                asyncio.get_running_loop().call_later(config.http.drain_s, self._finish)
            phase.drain()

        def _cut_off(self) -> None:
            """Ctrl-C again: wait for nothing. What is cut off now is no error worth a traceback."""
            self.force_exit = True
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            asyncio.get_running_loop().call_soon_threadsafe(app.state.services.engine.hurry)

        def _finish(self) -> None:
            self.should_exit = True

    return DrainingServer(
        uvicorn.Config(
            app,
            host=config.http.host,
            port=config.http.port,
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=config.http.shutdown_grace_s,
            proxy_headers=False,
        )
    )
