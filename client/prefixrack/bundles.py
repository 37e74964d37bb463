"""A bundle folder on its way over HTTP: multipart out, tar in. Knows three file names; never reads inside the files.

The format itself belongs to the adapters package, which the client does not import.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from prefixrack.errors import BundleTooLarge, MalformedBundle, UnsafeArchive

MANIFEST_FILE = "adapter.json"
TENSORS_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
REQUIRED_FILES = (MANIFEST_FILE, TENSORS_FILE)
BUNDLE_FILES = (MANIFEST_FILE, TENSORS_FILE, CARD_FILE)
FIELD_OF_FILE = {MANIFEST_FILE: "manifest", TENSORS_FILE: "tensors", CARD_FILE: "card"}
TYPE_OF_FILE = {
    MANIFEST_FILE: "application/json",
    TENSORS_FILE: "application/octet-stream",
    CARD_FILE: "text/markdown; charset=utf-8",
}
BUNDLE_WRITERS = "`prefixrack train` or `prefixrack pull`"
CHUNK_BYTES = 256 * 1024
MAX_BUNDLE_BYTES = 1 << 30

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One multipart field: its header lines, then the bytes of a file."""

    header: bytes
    path: Path
    size_bytes: int


class Upload:
    """The multipart body of a bundle folder, streamed from disk. Can be read again for every attempt."""

    def __init__(self, folder: Path, *, progress: Progress | None = None) -> None:
        self._boundary = os.urandom(16).hex()
        self._parts = [self._part(path) for path in bundle_files(folder)]
        self._end = f"--{self._boundary}--\r\n".encode()
        self._progress = progress
        self.content_type = f"multipart/form-data; boundary={self._boundary}"
        self.size_bytes = sum(len(part.header) + part.size_bytes + 2 for part in self._parts) + len(self._end)

    def chunks(self) -> Iterator[bytes]:
        num_sent = 0
        for chunk in self._read():
            yield chunk
            num_sent = self._report(num_sent + len(chunk))

    async def achunks(self) -> AsyncIterator[bytes]:
        num_sent, source = 0, self._read()
        while chunk := await asyncio.to_thread(next, source, b""):
            yield chunk
            num_sent = self._report(num_sent + len(chunk))

    def _report(self, num_sent: int) -> int:
        if self._progress is not None:
            self._progress(num_sent, self.size_bytes)
        return num_sent

    def _read(self) -> Iterator[bytes]:
        for part in self._parts:
            yield part.header
            with part.path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
            yield b"\r\n"
        yield self._end

    def _part(self, path: Path) -> Part:
        header = (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="{FIELD_OF_FILE[path.name]}"; filename="{path.name}"\r\n'
            f"Content-Type: {TYPE_OF_FILE[path.name]}\r\n\r\n"
        )
        return Part(header.encode(), path, path.stat().st_size)


class Spool:
    """A download's temporary file, bounded in size; gone when closed."""

    def __init__(self, max_bytes: int = MAX_BUNDLE_BYTES) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._max_bytes = max_bytes
        self._size_bytes = 0

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self._size_bytes = 0

    def write(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise BundleTooLarge(f"the server sends more than {self._max_bytes} bytes: a bundle is smaller than that")
        self.file.write(chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def bundle_files(folder: Path) -> list[Path]:
    """The bundle's files in a folder, in their fixed order. Raises MalformedBundle when a required one is missing."""
    if not folder.is_dir():
        raise MalformedBundle(f"there is no folder {folder}: give the one that {BUNDLE_WRITERS} wrote")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise MalformedBundle(
            f"{folder} has no {' and no '.join(missing)}: give the folder that {BUNDLE_WRITERS} wrote"
        )
    return [folder / name for name in BUNDLE_FILES if (folder / name).is_file()]


def name_in_manifest(folder: Path) -> str:
    """The adapter's name as its manifest gives it. Raises MalformedBundle where there is none."""
    bundle_files(folder)
    try:
        manifest: Any = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (ValueError, RecursionError) as error:
        raise MalformedBundle(f"{folder / MANIFEST_FILE} is not JSON ({error})") from None
    name = manifest.get("name") if isinstance(manifest, dict) else None
    if not isinstance(name, str):
        raise MalformedBundle(f"{folder / MANIFEST_FILE} has no `name`: say under which name to push it")
    return name


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Raises FileExistsError when unpacking would replace a bundle that the caller did not mean to replace."""
    present = [name for name in BUNDLE_FILES if (folder / name).exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{folder} already has {', '.join(present)}: choose another folder, or replace them with overwrite=True "
            "(--overwrite)"
        )


def unpack(archive: IO[bytes], folder: Path, digest: str, *, max_bytes: int = MAX_BUNDLE_BYTES) -> None:
    """Unpack the tar of a bundle into `folder`, whole or not at all.

    Only the three known names, plain files, each once, `max_bytes` in all. Raises UnsafeArchive, BundleTooLarge or
    MalformedBundle; the last also when the files do not have this digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as staging:
        _extract(archive, Path(staging), max_bytes)
        files = bundle_files(Path(staging))
        _check_digest(Path(staging), digest)
        for path in files:
            path.replace(folder / path.name)
        if not any(path.name == CARD_FILE for path in files):
            (folder / CARD_FILE).unlink(missing_ok=True)


def bundle_digest(folder: Path) -> str:
    """sha256 over the sorted lines `name sha256(bytes)` of the two required files; the card is outside it."""
    lines = []
    for name in sorted(REQUIRED_FILES):
        with (folder / name).open("rb") as file:
            lines.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _extract(archive: IO[bytes], folder: Path, max_bytes: int) -> None:
    archive.seek(0)
    room_bytes, seen = max_bytes, set[str]()
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                _check_member(member, seen, room_bytes)
                seen.add(member.name)
                room_bytes -= member.size
                _write_member(tar, member, folder)
    except (tarfile.TarError, EOFError) as error:
        raise MalformedBundle(f"the server's archive is not a whole tar ({error}): pull again") from error


def _check_member(member: tarfile.TarInfo, seen: set[str], room_bytes: int) -> None:
    if member.name not in BUNDLE_FILES or member.name in seen:
        raise UnsafeArchive(
            f"the archive holds {member.name!r}: only {', '.join(BUNDLE_FILES)}, each once, may be in it"
        )
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise UnsafeArchive(f"{member.name!r} in the archive is not a plain file: links and the like are not followed")
    if not 0 <= member.size <= room_bytes:
        raise BundleTooLarge(f"{member.name!r} claims {member.size} bytes, {room_bytes} are left of what is allowed")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    source = tar.extractfile(member)
    assert source is not None, "a plain file has content"
    with source, (folder / member.name).open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)


def _check_digest(folder: Path, digest: str) -> None:
    seen = bundle_digest(folder)
    if seen != digest:
        raise MalformedBundle(f"the files that came have digest {seen}, the server named {digest}: pull again")
