"""The blobs in an object store: S3, GCS or Azure, with a folder of this machine's in front. Knows no adapters, no SQL.

What is read lies in the folder first, and its bytes are those of its name. All methods block.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from prefixrack.errors import BlobUnusable, RegistryUnavailable
from prefixrack_server.disk import is_disk_full, naming_disk_full, sha256_of
from prefixrack_server.registry.blobs import blob_key, sha256_of_key

RETRIES: Final = {"max_retries": 4, "retry_timeout": timedelta(seconds=15)}
# What was used within this time stays in the folder, however full it is: a path that was handed out is still read.
IN_USE_S: Final = 600.0
STAGING_PREFIX: Final = "fetch-"


class CachedFile(NamedTuple):
    used_at: float
    size_bytes: int
    path: Path


class ObjectBlobStore:
    """A `BlobStore` in a bucket, shared by all replicas. `folder` may be shared by the processes of one server."""

    def __init__(
        self, store: ObjectStore, folder: Path, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{STAGING_PREFIX}*"):
            if path.stat().st_mtime < clock() - IN_USE_S:
                path.unlink(missing_ok=True)

    @classmethod
    def open(cls, url: str, folder: Path, max_bytes: int) -> ObjectBlobStore:
        """Credentials and endpoints come from the environment, as the cloud's own tools read them (AWS_…, GOOGLE_…,
        AZURE_…)."""
        return cls(from_url(url, retry_config=RETRIES), folder, max_bytes)  # type: ignore[call-overload]

    # An upload overwrites: the same name is the same bytes, a damaged object is mended, and an old one is young again.
    def put_file(self, sha256: str, path: Path) -> None:
        with naming_outage():
            obstore.put(self._store, blob_key(sha256), path)

    def adopt_file(self, sha256: str, path: Path) -> None:
        self.put_file(sha256, path)

    def put_bytes(self, sha256: str, content: bytes) -> None:
        with naming_outage():
            obstore.put(self._store, blob_key(sha256), content)

    def exists(self, sha256: str) -> bool:
        return self._written_at(sha256) is not None

    def is_older(self, sha256: str, moment: datetime) -> bool:
        written_at = self._written_at(sha256)
        return written_at is not None and written_at < moment

    def delete(self, sha256s: Iterable[str]) -> None:
        for sha256 in sha256s:
            with naming_outage(), suppress(NotFoundError, FileNotFoundError):
                obstore.delete(self._store, blob_key(sha256))
            self._path(sha256).unlink(missing_ok=True)

    def keep_young(self, sha256: str, now: datetime) -> None:
        """Of the copy: the object itself may go, whoever still needs it reads the copy."""
        with suppress(FileNotFoundError):
            os.utime(self._path(sha256), (now.timestamp(), now.timestamp()))

    def local_path(self, sha256: str, size_bytes: int | None = None) -> Path:
        path = self._path(sha256)
        if not self._is_whole(path, sha256):
            self._fetch(sha256, path)
        seen = path.stat().st_size
        if size_bytes is not None and seen != size_bytes:
            raise BlobUnusable(f"the blob {sha256} has {seen:,} bytes instead of {size_bytes:,}: restore a backup")
        return path

    def older_than(self, moment: datetime) -> Iterator[str]:
        with naming_outage():
            for batch in obstore.list(self._store):
                for entry in batch:
                    sha256 = sha256_of_key(entry["path"])
                    if sha256 is not None and entry["last_modified"] < moment:
                        yield sha256

    def _written_at(self, sha256: str) -> datetime | None:
        with naming_outage():
            try:
                return obstore.head(self._store, blob_key(sha256))["last_modified"]
            except (NotFoundError, FileNotFoundError):
                return None

    def _is_whole(self, path: Path, sha256: str) -> bool:
        """Whether the copy is there and good; a damaged one is fetched again."""
        try:
            os.utime(path, (self._clock(), self._clock()))
            return sha256_of(path) == sha256
        except FileNotFoundError:
            return False

    def _fetch(self, sha256: str, path: Path) -> None:
        staging = self._folder / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
        try:
            self._download(sha256, staging)
            path.parent.mkdir(exist_ok=True)
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
        self._make_room()

    def _download(self, sha256: str, staging: Path) -> None:
        """Raises BlobUnusable where the object is absent or has other bytes than its name says."""
        try:
            seen = self._stream(sha256, staging)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._make_room(keep_bytes=0)
            with naming_disk_full("its copy of an adapter"):
                seen = self._stream(sha256, staging)
        if seen != sha256:
            raise BlobUnusable(
                f"the blob {sha256} has other bytes in the store, with sha256 {seen}: upload its adapter again, or "
                "restore a backup"
            )

    def _stream(self, sha256: str, staging: Path) -> str:
        hashed = hashlib.sha256()
        with naming_outage(), staging.open("wb") as file:
            for chunk in self._chunks(sha256):
                hashed.update(chunk)
                file.write(chunk)
        return hashed.hexdigest()

    def _chunks(self, sha256: str) -> Iterator[Any]:
        try:
            yield from obstore.get(self._store, blob_key(sha256)).stream()
        except (NotFoundError, FileNotFoundError):
            raise BlobUnusable(
                f"the blob {sha256} is not in the store: upload its adapter again, or restore a backup"
            ) from None

    def _make_room(self, keep_bytes: int | None = None) -> None:
        """Remove the copies that were not used for longest, down to the limit."""
        limit = self._max_bytes if keep_bytes is None else keep_bytes
        files = sorted(self._files())
        total = sum(file.size_bytes for file in files)
        for file in files:
            if total <= limit or file.used_at > self._clock() - IN_USE_S:
                return
            file.path.unlink(missing_ok=True)
            total -= file.size_bytes

    def _files(self) -> Iterator[CachedFile]:
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):  # another process of this server made room
                stat = path.stat()
                yield CachedFile(stat.st_mtime, stat.st_size, path)

    def _path(self, sha256: str) -> Path:
        return self._folder / blob_key(sha256)


@contextmanager
def naming_outage() -> Iterator[None]:
    """Raise RegistryUnavailable in place of whatever says that the store cannot be reached or asked now."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise
    except BaseError as error:
        reason = str(error).splitlines()[0][:200]
        raise RegistryUnavailable(
            f"the registry's blob store does not answer ({reason}): send it again in a moment",
            retry_after_s=1,
        ) from error
