"""The `prefixrack` command put together. Knows which commands there are, and nothing that they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from prefixrack.cli.adapters import delete, list_held, show
from prefixrack.cli.aliases import canary, gates, promote, rollback, shadow
from prefixrack.cli.bench import bench
from prefixrack.cli.bundles import pull, push
from prefixrack.cli.doctor import doctor
from prefixrack.cli.group import RootGroup
from prefixrack.cli.keys import keys_app
from prefixrack.cli.playground import playground
from prefixrack.cli.predict import predict
from prefixrack.cli.session import Session
from prefixrack.cli.tenants import tenants_app
from prefixrack.cli.top import top
from prefixrack.cli.whoami import whoami
from prefixrack.settings import API_KEY_VARIABLE, BASE_URL_VARIABLE, DEFAULT_BASE_URL
from prefixrack.version import installed_version

COMMANDS = (
    *(push, pull, show, predict),
    *(promote, canary, shadow, gates, rollback, delete),
    *(playground, top, bench, whoami, doctor),
)
HELP = """Thousands of small prompt adapters on one frozen backbone.

Exit codes: 0 ok, 1 an input failed, 2 usage or a missing extra, 3 no answer, 4 refused by the server, 5 server failed.
"""


def main() -> None:
    build_app()(prog_name="prefixrack")


def build_app() -> typer.Typer:
    app = typer.Typer(name="prefixrack", cls=RootGroup, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)
    app.callback()(options)
    for command in COMMANDS:
        app.command(command.__name__)(command)
    app.command("list")(list_held)
    app.add_typer(keys_app(), name="keys")
    app.add_typer(tenants_app(), name="tenants")
    return app


def _show_version(given: bool) -> None:
    if given:
        typer.echo(f"prefixrack {installed_version()}")
        raise typer.Exit()


def options(
    context: typer.Context,
    base_url: Annotated[
        str | None, typer.Option(envvar=BASE_URL_VARIABLE, help=f"The server; {DEFAULT_BASE_URL} by default.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=API_KEY_VARIABLE, help="The key; better given by the environment.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")] = 30.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Tests hand a session in; from the shell there is none.
    session = context.obj if isinstance(context.obj, Session) else Session()
    context.obj = replace(session, base_url=base_url, api_key=api_key, timeout_s=timeout)
