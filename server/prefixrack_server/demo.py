"""The `prefixrack demo` command: a server on the embedded backbone with example adapters, and three lines to try."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from prefixrack.errors import UnsupportedBackbone
from prefixrack_server.commands import check_paths, run
from prefixrack_server.config import ConfigError, load_config

# Adapter, and an input whose right answer is plain to see.
EXAMPLES: tuple[tuple[str, Any], ...] = (
    ("intent", "how much money do i have in my checking account"),
    ("ner", "He played for Manchester United at Wembley Stadium in London."),
    (
        "qa",
        {
            "question": "When was the Eiffel Tower opened?",
            "context": "The Eiffel Tower, designed by the company of Gustave Eiffel, was opened in 1889 in Paris.",
        },
    ),
)


def demo(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    adapters: Annotated[
        Path | None, typer.Option(help="Folder with bundles; by default the examples that come with Prefixrack.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")] = "embedded",
) -> None:
    """Serve the example adapters on the loopback interface, open to everybody on this machine, nothing kept."""
    with tempfile.TemporaryDirectory(prefix="prefixrack-demo-") as state_dir:
        try:
            config = load_config(
                {
                    "http": {"host": "127.0.0.1", "port": port, "auth": "none", "log_level": "warning"},
                    "backbone": {"path": backbone},
                    "registry": {"state_dir": Path(state_dir), "adapters_dir": adapters or _examples()},
                }
            )
            check_paths(config)
            run(config, on_ready=lambda: _greet(port))
        except (ConfigError, UnsupportedBackbone) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None


def _examples() -> Path:
    """The wheel has them among its files; a checkout has them beside the package."""
    in_wheel = Path(str(files("prefixrack_adapters"))) / "examples"
    return in_wheel if in_wheel.is_dir() else in_wheel.parents[1] / "examples"


def _greet(port: int) -> None:
    typer.echo(f"\nPrefixrack answers on http://127.0.0.1:{port} (console: /console, API reference: /docs). Try:\n")
    for name, example in EXAMPLES:
        typer.echo(f"{curl_line(port, name, example)}\n")
    typer.echo("Ctrl-C ends it.")


def curl_line(port: int, name: str, example: Any) -> str:
    """One request to copy into a shell; the examples hold no single quote."""
    body = json.dumps({"inputs": example})
    return f"curl -s http://127.0.0.1:{port}/v1/{name}/predict -H 'content-type: application/json' -d '{body}'"
