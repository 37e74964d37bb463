"""Turns on a file that the processes of one server share. Knows nothing of what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


@contextmanager
def file_turn(file: IO[bytes] | int | None) -> Iterator[None]:
    """Alone among the processes that have the file open; `file` may be its descriptor.

    Without a file there is one process, which has every turn.
    """
    if file is None:
        yield
        return
    import fcntl  # not on every system; where it is not, there is one front end

    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
