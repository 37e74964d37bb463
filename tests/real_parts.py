"""Real programs that tests start beside the server. Without one its tests are skipped; with PREFIXRACK_TESTS_NEED_ALL
set, as in CI, they fail: there nothing may be missing unseen."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from postgres_process import NoPostgres, PostgresServer


def missing(reason: str) -> NoReturn:
    """Say why a test cannot run, and how to install what it needs."""
    if os.environ.get("PREFIXRACK_TESTS_NEED_ALL"):
        pytest.fail(f"{reason} (PREFIXRACK_TESTS_NEED_ALL is set: nothing may be skipped for want of a part)")
    pytest.skip(reason)


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
