"""The disk: making files durable, and naming a full one. Knows no bundles and no SQL."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefixrack.errors import DiskFull

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
# obstore hands the operating system's error on as text only, in the words of Rust's std::io::Error.
FULL_TEXTS = tuple(f"(os error {number})" for number in sorted(FULL_ERRNOS))


def is_disk_full(error: BaseException) -> bool:
    """Whether an OSError, or an error of obstore that wraps one, says that no space or quota is left."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL_ERRNOS
    return any(text in str(error) for text in FULL_TEXTS)


@contextmanager
def naming_disk_full(what: str) -> Iterator[None]:
    """Raise DiskFull in place of whatever says that the disk is full; every other error passes through."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full(what) from error


def disk_full(what: str) -> DiskFull:
    return DiskFull(f"no space is left on the server's disk while writing {what}: free some space and send it again")


def sync_file(path: Path) -> None:
    """fsync a file, so that its content survives a power cut."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """fsync a folder, so that the names in it survive a power cut."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
