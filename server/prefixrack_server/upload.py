"""The spool: bytes of an upload land in our own files, hashed and counted. Knows no HTTP and no archive format.

An upload is a `Draft` of at most three files. What is not finished is removed, whatever ended it; what a killed
process left behind is removed when the spool is opened again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from prefixrack.errors import BundleTooLarge, MalformedBundle, UnsafeArchive
from prefixrack_adapters.bundle import BUNDLE_FILES, CARD_FILE, MANIFEST_FILE, TENSORS_FILE, digest_of
from prefixrack_server.disk import naming_disk_full

PART_PREFIX: Final = "upload-"
PART_SUFFIX: Final = ".part"

MIB: Final = 1024 * 1024
WRITTEN_AT_ONCE: Final = MIB

FileOpener = Callable[[Path], BinaryIO]


@dataclass(frozen=True, slots=True)
class SpooledBundle:
    """A whole upload. `tensors_path` belongs to the draft that made it and goes with it."""

    manifest_bytes: bytes
    tensors_path: Path
    manifest_sha256: str
    tensors_sha256: str
    tensors_bytes: int
    digest: str
    card: str | None

    @property
    def size_bytes(self) -> int:
        """Size of the two files that the digest covers."""
        return len(self.manifest_bytes) + self.tensors_bytes


def open_unbuffered(path: Path) -> BinaryIO:
    """No buffer of ours: a full disk shows at the write that meets it, not at some later flush."""
    return path.open("xb", buffering=0)


class Spool:
    """A folder for uploads on their way in. It belongs to one process alone, or to the first part of its path: a
    server's front ends have a folder each in that of the server."""

    def __init__(
        self,
        folder: Path,
        max_tensors_bytes: int,
        max_manifest_bytes: int = MIB,
        max_card_bytes: int = MIB // 4,
        open_file: FileOpener = open_unbuffered,
    ) -> None:
        self.folder = folder
        self.limits = {
            MANIFEST_FILE: max_manifest_bytes,
            TENSORS_FILE: max_tensors_bytes,
            CARD_FILE: max_card_bytes,
        }
        self.open_file = open_file
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers(time.time())

    @property
    def max_total_bytes(self) -> int:
        return sum(self.limits.values())

    @asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """A new upload. Its files are removed at the end of the block, however that comes."""
        draft = Draft(self)
        try:
            yield draft
        finally:
            draft.discard()

    def _remove_leftovers(self, started_at: float) -> None:
        for path in self.folder.rglob(f"{PART_PREFIX}*{PART_SUFFIX}"):
            if path.stat().st_mtime < started_at:
                path.unlink(missing_ok=True)


class Draft:
    """One upload being written: `begin`, `write`…, `end` for each file, then `finish`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._parts: dict[str, MemoryPart | FilePart] = {}
        self._current: MemoryPart | FilePart | None = None

    @property
    def max_total_bytes(self) -> int:
        return self._spool.max_total_bytes

    async def begin(self, file_name: str, claimed_bytes: int | None = None) -> None:
        """Start a file. Raises BundleTooLarge by its claimed size, before a byte of it is read."""
        if file_name not in BUNDLE_FILES:
            raise MalformedBundle(f"the bundle holds {file_name!r}: only {', '.join(BUNDLE_FILES)} are allowed")
        if file_name in self._parts:
            raise UnsafeArchive(f"the bundle holds {file_name} twice: send each file once")
        limit = self._spool.limits[file_name]
        check_size(file_name, claimed_bytes or 0, limit)
        part = self._new_part(file_name, limit)
        self._parts[file_name] = self._current = part

    async def write(self, data: bytes) -> None:
        if self._current is None:
            raise MalformedBundle("bytes came before the name of a file: send each file under its own name")
        await self._current.take(data)

    async def end(self) -> None:
        if self._current is not None:
            await self._current.close()
        self._current = None

    async def finish(self) -> SpooledBundle:
        """The whole bundle, synced to disk. Raises MalformedBundle for a missing file or a card that is no text."""
        manifest, tensors = self._part(MANIFEST_FILE), self._part(TENSORS_FILE)
        if not isinstance(manifest, MemoryPart) or not isinstance(tensors, FilePart):
            raise AssertionError("the manifest is held in memory, the tensors in a file")
        return SpooledBundle(
            manifest_bytes=bytes(manifest.content),
            tensors_path=tensors.path,
            manifest_sha256=manifest.sha256,
            tensors_sha256=tensors.sha256,
            tensors_bytes=tensors.num_bytes,
            digest=digest_of(manifest.sha256, tensors.sha256),
            card=self._card(),
        )

    def discard(self) -> None:
        """Remove what was spooled. Works at any point, and more than once."""
        for part in self._parts.values():
            part.discard()

    def _new_part(self, file_name: str, limit: int) -> MemoryPart | FilePart:
        if file_name != TENSORS_FILE:
            return MemoryPart(file_name, limit)
        with naming_disk_full("the upload"):
            return FilePart(file_name, limit, self._spool.folder, self._spool.open_file)

    def _part(self, file_name: str) -> MemoryPart | FilePart:
        part = self._parts.get(file_name)
        if part is None:
            seen = ", ".join(sorted(self._parts)) or "no file at all"
            needed = f"{MANIFEST_FILE} and {TENSORS_FILE}"
            raise MalformedBundle(f"the bundle has no {file_name}: it needs {needed}, and holds {seen}")
        return part

    def _card(self) -> str | None:
        part = self._parts.get(CARD_FILE)
        if not isinstance(part, MemoryPart):
            return None
        try:
            card = part.content.decode()
        except UnicodeDecodeError as error:
            raise MalformedBundle(f"{CARD_FILE} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
        if "\0" in card:
            raise MalformedBundle(f"{CARD_FILE} holds a NUL character: a card is plain text")
        return card


class MemoryPart:
    """A small file, kept in memory."""

    def __init__(self, file_name: str, limit: int) -> None:
        self._file_name, self._limit = file_name, limit
        self.content = bytearray()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    async def take(self, data: bytes) -> None:
        check_size(self._file_name, len(self.content) + len(data), self._limit)
        self.content += data

    async def close(self) -> None:
        """Nothing to sync: the registry writes it."""

    def discard(self) -> None:
        self.content.clear()


class FilePart:
    """A large file in the spool's folder. Opened at once, so that there is always an owner to remove it; written in a
    thread, many chunks at a time: they come as small as the network sends them."""

    def __init__(self, file_name: str, limit: int, folder: Path, open_file: FileOpener) -> None:
        self._file_name, self._limit = file_name, limit
        self._hash = hashlib.sha256()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.num_bytes = 0
        self.path = folder / f"{PART_PREFIX}{secrets.token_hex(16)}{PART_SUFFIX}"
        self._file = open_file(self.path)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def take(self, data: bytes) -> None:
        self.num_bytes += len(data)
        check_size(self._file_name, self.num_bytes, self._limit)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= WRITTEN_AT_ONCE:
            with naming_disk_full("the upload"):
                await asyncio.to_thread(self._write_held)

    async def close(self) -> None:
        with naming_disk_full("the upload"):
            await asyncio.to_thread(self._finish)

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _write_held(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        for data in held:
            self._hash.update(data)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def _finish(self) -> None:
        self._write_held()
        os.fsync(self._file.fileno())
        self._file.close()


def check_size(file_name: str, seen: int, allowed: int) -> None:
    if seen > allowed:
        raise BundleTooLarge(
            f"{file_name} has {seen:,} bytes or more, {allowed:,} are allowed: make the adapter smaller, or ask for "
            "a higher upload limit"
        )
