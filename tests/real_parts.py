"""Real programs that tests start beside the server. Without one its tests are skipped; with PREFIXRACK_TESTS_NEED_ALL
set, as in CI, they fail: there nothing may be missing unseen."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest

from postgres_process import NoPostgres, PostgresServer

# What `make parts` installs.
MAKE_PARTS: Final = "make parts"
PARTS_FOLDER: Final = Path(__file__).parents[1] / ".parts"
PARTS: Final = (PARTS_FOLDER / "bin", PARTS_FOLDER / "node_modules" / ".bin")


def missing(reason: str) -> NoReturn:
    """Say why a test cannot run, and how to install what it needs."""
    if os.environ.get("PREFIXRACK_TESTS_NEED_ALL"):
        pytest.fail(f"{reason} (PREFIXRACK_TESTS_NEED_ALL is set: nothing may be skipped for want of a part)")
    pytest.skip(reason)


def program(name: str, install: str = MAKE_PARTS) -> str:
    """The path of a program; `install` is the line that brings it."""
    places = os.pathsep.join(str(place) for place in (Path(sys.executable).parent, *PARTS, os.environ["PATH"]))
    return shutil.which(name, path=places) or missing(f"{name} is not installed: {install}")


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
