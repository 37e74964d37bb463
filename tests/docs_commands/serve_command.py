"""Ray's `serve run`: the real one, with one small replica instead of several. deploy/test_ray.py has two."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from docs_commands.foreground import serve
from serve_process import free_port

FEWER = {"num_replicas": "1", "num_cpus": "0.5"}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def run(arguments: Sequence[str]) -> int:
    port = free_port()
    command = (sys.executable, "-W", "ignore", "-m", __name__, str(port), *scaled_down(arguments))
    return serve(command, port, "/health/ready", QUIET)


def scaled_down(arguments: Sequence[str]) -> list[str]:
    kept = [word for word in arguments if word.partition("=")[0] not in FEWER]
    return [*kept, *(f"{name}={value}" for name, value in FEWER.items())]


def run_here(port: int, arguments: Sequence[str]) -> None:
    """The command has no option for the port: it is put where the command starts Serve, beside its other settings."""
    from ray.serve import scripts
    from ray.serve._private import api

    serve_start = api.serve_start

    def start(**settings: Any) -> Any:
        settings["http_options"] = {"host": "127.0.0.1", "port": port}
        return serve_start(**settings)

    api.serve_start = start
    scripts.cli(list(arguments), prog_name="serve")


if __name__ == "__main__":
    run_here(int(sys.argv[1]), sys.argv[2:])
