"""The `prefixrack serve` command: settings to a running server, in one process or several. Imports what it needs for
that inside the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from prefixrack.errors import RegistryUnavailable, UnsupportedBackbone
from prefixrack_adapters.embedded import resolve_backbone
from prefixrack_server.child_process import ChildEnded
from prefixrack_server.config import ConfigError, ServerConfig, load_config

MAX_DEFAULT_WORKERS = 8


def serve(
    backbone: Annotated[str | None, typer.Option(help="Folder, hub id, or 'embedded'. [default: embedded]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8000]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto. [default: auto]")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16, int8 (CPU), or auto: the fastest but int8. [default: auto]"),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Folder for database, bundles and spool. [default: prefixrack-data]")
    ] = None,
    auth: Annotated[
        str | None, typer.Option(help="keys, or none (everybody may do everything; loopback only). [default: keys]")
    ] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder whose bundles are registered at start.")] = None,
    http_workers: Annotated[
        int | None,
        typer.Option(
            help="Front-end processes that feed an engine in its own process; 0: one process for all. "
            "[default: 0 on a CPU, up to 4 on a GPU]"
        ),
    ] = None,
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
                "http": {
                    "host": host,
                    "port": port,
                    "auth": auth,
                    "workers": http_workers,
                    "log_level": log_level,
                },
                "backbone": {"path": backbone, "device": device, "dtype": dtype},
                "registry": {"state_dir": state_dir, "adapters_dir": adapters},
            }
        )
        check_paths(config)
        run(config, new_admin_key=new_admin_key)
    except (ConfigError, UnsupportedBackbone, RegistryUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except ChildEnded as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def check_paths(config: ServerConfig) -> None:
    """Raises ConfigError for a folder that is not there."""
    if not config.backbone.path:
        raise ConfigError("setting backbone.path is not set: give --backbone: a folder, a hub id or 'embedded'")
    adapters_dir = config.registry.adapters_dir
    if adapters_dir is not None and not adapters_dir.is_dir():
        raise ConfigError(f"setting registry.adapters_dir: {str(adapters_dir)!r} is not a folder")


def run(config: ServerConfig, on_ready: Callable[[], None] | None = None, *, new_admin_key: bool = False) -> None:
    """Load the backbone and serve until a signal ends it; `on_ready` is called once requests are answered."""
    from prefixrack_server.http_server import check_port
    from prefixrack_server.logs import set_up_logging
    from prefixrack_server.state_folder import claimed

    check_port(config.http.host, config.http.port)
    with claimed(config.registry.state_dir):
        folder = resolve_backbone(config.backbone.path)  # before the seconds that torch takes to load
        set_up_logging(config.http.log_level, config.http.log_format)
        config = with_workers(config)
        if config.http.workers:
            from prefixrack_server.supervisor import supervise

            supervise(config, folder, on_ready, new_admin_key)
        else:
            from prefixrack_server.single_process import serve_alone

            serve_alone(config, folder, on_ready, new_admin_key)


def with_workers(config: ServerConfig) -> ServerConfig:
    """The number of front ends where it is not set: none beside an engine that computes on the same cores."""
    if config.http.workers is not None:
        return config
    device = config.backbone.device
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    num_cores = len(os.sched_getaffinity(0))
    workers = 0 if device == "cpu" else max(1, min(MAX_DEFAULT_WORKERS, num_cores // 2))
    return config.model_copy(update={"http": config.http.model_copy(update={"workers": workers})})
