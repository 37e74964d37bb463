"""`prefixrack doctor`: what is installed, whether the server answers, whether the key is good. Changes nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import islice
from typing import Literal

import typer
from rich.text import Text

from prefixrack.cli.exits import ExitCode
from prefixrack.cli.printing import sentence_of, show_json, show_table
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.client import Client
from prefixrack.errors import APIError, AuthenticationError, PermissionDeniedError
from prefixrack.version import DISTRIBUTION, installed_version

State = Literal["ok", "missing", "failed"]
COLOURS: dict[State, str] = {"ok": "green", "missing": "yellow", "failed": "bold red"}
OLDEST_PYTHON = (3, 11)
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?.*?extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `exit_code` is what this check alone makes of the command."""

    name: str
    state: State
    detail: str
    exit_code: ExitCode = ExitCode.OK


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Check the installation, the server and the key."""
    with open_client(context) as client:
        checks = [_python(), *_packages(requires_of_distribution()), *_server(client)]
    code = max(check.exit_code for check in checks)
    if json:
        shown = [{name: value for name, value in asdict(check).items() if name != "exit_code"} for check in checks]
        show_json({"ok": code == ExitCode.OK, "checks": shown})
    else:
        rows = [(check.name, Text(check.state, COLOURS[check.state]), check.detail) for check in checks]
        show_table(("check", "state", "detail"), rows, empty="")
    raise typer.Exit(code)


def requires_of_distribution() -> list[str]:
    """The requirement lines of the installed distribution; none where it runs from its source tree."""
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []


def packages_by_extra(requirements: Sequence[str]) -> dict[str, list[str]]:
    """Which packages each extra names, extras of this distribution that it includes left out."""
    extras: dict[str, list[str]] = {}
    for line in requirements:
        match = REQUIREMENT.match(line)
        if match is not None and match[1] != DISTRIBUTION:
            extras.setdefault(match[3], []).append(match[1])
    return extras


def _python() -> Check:
    seen = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "failed", f"{seen}: 3.11 or newer is needed", ExitCode.FAILED)
    return Check("python", "ok", seen)


def _packages(requirements: Sequence[str]) -> Iterator[Check]:
    yield Check("prefixrack", "ok", installed_version())
    extras = packages_by_extra(requirements)
    for extra in sorted(extras, key=lambda extra: len(extras[extra])):
        yield _extra(extra, included_extras(extra, extras), {name: _version_of(name) for name in extras[extra]})


def included_extras(extra: str, extras: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Other extras whose packages are all in this one's: an installed distribution lists them flat."""
    own = set(extras[extra])
    return {other: packages for other, packages in extras.items() if set(packages) < own}


def _extra(extra: str, included: Mapping[str, Sequence[str]], versions: dict[str, str | None]) -> Check:
    """What the included extras bring is said on their own lines."""
    elsewhere = {package for packages in included.values() for package in packages}
    missing = [package for package, found in versions.items() if found is None and package not in elsewhere]
    lacking = [other for other, packages in included.items() if any(versions[package] is None for package in packages)]
    if missing or lacking:
        parts = [*missing, *(f"what {other} needs" for other in lacking)]
        return Check(f"extra {extra}", "missing", f"without {', '.join(parts)}: pip install 'prefixrack[{extra}]'")
    shown = [f"{package} {found}" for package, found in versions.items() if package not in elsewhere]
    return Check(f"extra {extra}", "ok", ", ".join([*included, *shown]))


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _server(client: Client) -> Iterator[Check]:
    try:
        health = client.health()
    except APIError as error:
        yield Check("server", "failed", sentence_of(error), ExitCode.CONNECTION)
        return
    if health.ready:
        yield Check("server", "ok", client.base_url)
    else:
        yield Check("server", "failed", f"{client.base_url} is not ready: {health.reason}", ExitCode.SERVER)
    yield _key(client)


def _key(client: Client) -> Check:
    try:
        num_shown = len(list(islice(client.list_adapters(page_size=1), 1)))
    except AuthenticationError as error:
        detail = f"{sentence_of(error)}: set PREFIXRACK_API_KEY"
        return Check("key", "failed", detail, ExitCode.REFUSED)
    except PermissionDeniedError:
        return Check("key", "ok", "accepted, though it may not list adapters")
    except APIError as error:
        return Check("key", "failed", sentence_of(error), ExitCode.SERVER)
    return Check("key", "ok", "accepted" if num_shown else "accepted; there are no adapters yet")
