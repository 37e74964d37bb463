"""The blobs: files named by the sha256 of their bytes, written once. Knows no adapters and no SQL.

All methods block: call them in a thread.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

from prefixrack.errors import BlobUnusable
from prefixrack_server.disk import is_disk_full, naming_disk_full, sha256_of, sync_file, sync_folder
from prefixrack_server.messages import BundleRef

# obstore writes `<name>#<n>` first and links it to its name when it is whole; a killed process leaves such files.
STAGING_PATTERN: Final = "??/*#*"
STAGING_MAX_AGE_S: Final = 3600.0
KEY_PATTERN: Final = re.compile(r"(?:.*/)?[0-9a-f]{2}/([0-9a-f]{64})")


class BlobStore(Protocol):
    """Where the registry keeps bundle files. Keys are sha256 in hex, stored under `aa/aabb…`."""

    def put_file(self, sha256: str, path: Path) -> None:
        """Store a file under its own sha256, durably. The same bytes again change nothing. Raises DiskFull."""

    def put_bytes(self, sha256: str, content: bytes) -> None:
        """`put_file` for bytes in memory."""

    def adopt_file(self, sha256: str, path: Path) -> None:
        """`put_file` for a file that nobody writes to any more: it may become the blob itself."""

    def exists(self, sha256: str) -> bool: ...

    def is_older(self, sha256: str, moment: datetime) -> bool:
        """Whether it is there and was written, or kept young, before `moment`."""

    def delete(self, sha256s: Iterable[str]) -> None:
        """Remove blobs; one that is not there is no error."""

    def keep_young(self, sha256: str, now: datetime) -> None:
        """Let `older_than` take a blob for one that is written now; one that is not there is no error."""

    def local_path(self, sha256: str, size_bytes: int | None = None) -> Path:
        """A readable file with the blob's bytes. Raises BlobUnusable when it is absent or of another size."""

    def older_than(self, moment: datetime) -> Iterator[str]:
        """Keys of all blobs that were written before `moment`."""


class LocalBlobStore:
    """A `BlobStore` in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = LocalStore(folder, mkdir=True)
        self._lasting: set[Path] = set()  # folders of blobs whose own names are known to be on the disk
        self._remove_staging(time.time() - STAGING_MAX_AGE_S)

    def put_file(self, sha256: str, path: Path) -> None:
        with naming_disk_full("the adapter's files"):
            self._put(sha256, path)

    def put_bytes(self, sha256: str, content: bytes) -> None:
        with naming_disk_full("the adapter's files"):
            self._put(sha256, content)

    def adopt_file(self, sha256: str, path: Path) -> None:
        with naming_disk_full("the adapter's files"):
            if self._link(sha256, path):
                self._sync(sha256)
            else:
                self._put(sha256, path)

    def exists(self, sha256: str) -> bool:
        return self._path(sha256).is_file()

    def is_older(self, sha256: str, moment: datetime) -> bool:
        with suppress(FileNotFoundError):
            return self._path(sha256).stat().st_mtime < moment.timestamp()
        return False

    def delete(self, sha256s: Iterable[str]) -> None:
        for sha256 in sha256s:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, blob_key(sha256))

    def keep_young(self, sha256: str, now: datetime) -> None:
        with suppress(FileNotFoundError):
            os.utime(self._path(sha256), (now.timestamp(), now.timestamp()))

    def local_path(self, sha256: str, size_bytes: int | None = None) -> Path:
        path = self._path(sha256)
        if not path.is_file():
            raise BlobUnusable(f"the blob {sha256} is not in the store: upload its adapter again, or restore a backup")
        seen = path.stat().st_size
        if size_bytes is not None and seen != size_bytes:
            raise BlobUnusable(f"the blob {sha256} has {seen:,} bytes instead of {size_bytes:,}: restore a backup")
        return path

    def older_than(self, moment: datetime) -> Iterator[str]:
        for batch in obstore.list(self._store):
            for entry in batch:
                sha256 = sha256_of_key(entry["path"])
                if sha256 is not None and entry["last_modified"] < moment:
                    yield sha256

    def _link(self, sha256: str, path: Path) -> bool:
        """Give the file the blob's name too. False where there is one of that name, or where it lies on another disk or
        the file system has no links: then its bytes are copied."""
        name = self._path(sha256)
        try:
            name.parent.mkdir(exist_ok=True)
            name.hardlink_to(path)
        except OSError as error:
            if is_disk_full(error):
                raise
            return False
        return True

    def _put(self, sha256: str, content: Path | bytes) -> None:
        try:
            obstore.put(self._store, blob_key(sha256), content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            self._repair(sha256, content)
        self._sync(sha256)

    def _repair(self, sha256: str, content: Path | bytes) -> None:
        # A power cut between an earlier put and its fsync can leave a name without its bytes.
        if sha256_of(self._path(sha256)) != sha256:
            obstore.put(self._store, blob_key(sha256), content, mode="overwrite", use_multipart=False)
        # Young again: a sweep must not take an old orphan that this upload is about to need.
        os.utime(self._path(sha256))

    def _sync(self, sha256: str) -> None:
        # obstore syncs nothing: the file, its name in aa/, and once the name aa itself, each need it.
        path = self._path(sha256)
        sync_file(path)
        sync_folder(path.parent)
        if path.parent not in self._lasting:
            sync_folder(self._folder)
            self._lasting.add(path.parent)

    def _path(self, sha256: str) -> Path:
        return self._folder / blob_key(sha256)

    def _remove_staging(self, before: float) -> None:
        for path in self._folder.glob(STAGING_PATTERN):
            if path.stat().st_mtime < before:
                path.unlink(missing_ok=True)


class BundleSource:
    """Finds a version's two files for the engine's fetchers, which check the bytes themselves."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        """The manifest's bytes and the path of the tensors. Raises BlobUnusable."""
        manifest = self._blobs.local_path(bundle.manifest_sha256)
        return manifest.read_bytes(), self._blobs.local_path(bundle.tensors_sha256)


def blob_key(sha256: str) -> str:
    return f"{sha256[:2]}/{sha256}"


def sha256_of_key(key: str) -> str | None:
    """None for what is no blob: a store may hold other things beside."""
    found = KEY_PATTERN.fullmatch(key)
    return None if found is None else found[1]
