"""The state folder: one server process at a time. Knows neither database nor blobs.

Two processes on one folder would remove each other's running uploads.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefixrack_server.config import ConfigError

LOCK_FILE = "server.lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the lock goes with the process, however that ends. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        raise ConfigError(
            f"setting registry.state_dir: {str(folder)!r} cannot be written ({error.strerror}): give --state-dir a "
            "folder that this user may write to"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"setting registry.state_dir: another server uses the folder {str(folder)!r}: stop it, or give "
                "--state-dir another folder"
            ) from None
        yield
