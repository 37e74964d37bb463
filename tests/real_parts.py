"""Real programs that tests start beside the server. Without one its tests are skipped; with PREFIXRACK_TESTS_NEED_ALL
set, as in CI, they fail: there nothing may be missing unseen."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from postgres_process import NoPostgres, PostgresServer


def missing(reason: str) -> NoReturn:
    """Say why a test cannot run, and how to install what it needs."""
    if os.environ.get("PREFIXRACK_TESTS_NEED_ALL"):
        pytest.fail(f"{reason} (PREFIXRACK_TESTS_NEED_ALL is set: nothing may be skipped for want of a part)")
    pytest.skip(reason)


def program(name: str, install: str) -> str:
    """The path of a program; `install` is the line that brings it."""
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    return found or missing(f"{name} is not installed: {install}")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    try:
        server = PostgresServer()
    except NoPostgres as error:
        missing(str(error))
    try:
        server.start()
        yield server
    finally:
        server.close()
