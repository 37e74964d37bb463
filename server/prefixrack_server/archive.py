"""The archive: a tar or multipart stream becomes a spooled bundle. Knows no registry, and no name from the archive is
ever used as a path.

Header fields are read by the standard library's `tarfile`; which members are acceptable is decided here.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from prefixrack.errors import BundleTooLarge, MalformedBundle, UnsafeArchive
from prefixrack_adapters.bundle import BUNDLE_FILES, CARD_FILE, MANIFEST_FILE, TENSORS_FILE
from prefixrack_server.upload import Draft, SpooledBundle

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

BLOCK: Final = tarfile.BLOCKSIZE
END_BLOCK: Final = bytes(BLOCK)
CHUNK_BYTES: Final = 256 * 1024
MAX_EXTENSION_BYTES: Final = 32 * 1024  # pax records and GNU long names of one member
MAX_PADDING_BYTES: Final = 1024 * 1024  # zero blocks after the last member; tar rounds up to 10 KiB by default
MAX_FOLDERS: Final = 8  # entries for "./" and for the one leading folder
ENVELOPE_BYTES: Final = 2 * 1024 * 1024  # headers, padding and boundaries around the files themselves

EXTENSION_TYPES: Final = frozenset({tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE})
LONG_NAME_TYPES: Final = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK})
FILE_TYPES: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})

OTHER_FORMATS: Final = {
    b"\x1f\x8b": "gzip",
    b"PK": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf": "7z",
}
FIELDS: Final = {"manifest": MANIFEST_FILE, "tensors": TENSORS_FILE, "card": CARD_FILE} | {
    name: name for name in BUNDLE_FILES
}
SEND_TAR: Final = f"send an uncompressed tar of {', '.join(BUNDLE_FILES)}"


async def read_tar(stream: AsyncIterator[bytes], draft: Draft) -> SpooledBundle:
    """Read an uncompressed tar into the draft. Plain files beside the bundle's own, such as a report, are skipped.

    Raises UnsafeArchive, MalformedBundle, BundleTooLarge or DiskFull.
    """
    source = ByteSource(stream, draft.max_total_bytes + ENVELOPE_BYTES)
    members = MemberReader(source)
    while (member := await members.next()) is not None:
        if member.file_name in BUNDLE_FILES:
            await draft.begin(member.file_name, member.num_bytes)
            await _copy(source, member.num_bytes, draft)
            await draft.end()
        else:
            await _skip(source, member, draft.max_total_bytes)
    await _check_end(source)
    return await draft.finish()


async def _copy(source: ByteSource, num_bytes: int, draft: Draft) -> None:
    left = num_bytes
    while left:
        data = await source.read(min(left, CHUNK_BYTES))
        left -= len(data)
        await draft.write(data)
    await source.read_exactly(-num_bytes % BLOCK)


async def _skip(source: ByteSource, member: Member, max_bytes: int) -> None:
    if member.num_bytes > max_bytes:
        raise BundleTooLarge(
            f"the tar holds {member.file_name!r} of {member.num_bytes:,} bytes, {max_bytes:,} are allowed in all: "
            "leave it out, it is no part of the bundle"
        )
    left = member.num_bytes + -member.num_bytes % BLOCK
    while left:
        left -= len(await source.read(min(left, CHUNK_BYTES)))


async def _check_end(source: ByteSource) -> None:
    num_padding = 0
    while data := await source.read_any(CHUNK_BYTES):
        num_padding += len(data)
        if data.strip(b"\0"):
            raise MalformedBundle(f"bytes follow the end of the tar archive: {SEND_TAR}, and nothing after it")
        if num_padding > MAX_PADDING_BYTES:
            raise UnsafeArchive(f"more than {MAX_PADDING_BYTES:,} zero bytes follow the end of the tar archive")


class Member(NamedTuple):
    file_name: str
    num_bytes: int


class MemberReader:
    """Walks the headers of a tar stream; between two calls of `next` the caller reads the member's bytes."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._globals = b""  # pax records that hold for every later member
        self._folder: str | None = None  # of the first file: the others must lie beside it
        self._num_folders = 0
        self._is_first = True

    async def next(self) -> Member | None:
        """The next plain file, or None at the end-of-archive block."""
        while (info := await self._next_info()) is not None:
            if info.isdir():
                self._check_folder(info)
            else:
                return Member(self._file_name(info), info.size)
        return None

    async def _next_info(self) -> tarfile.TarInfo | None:
        """The next member's header, with the pax records and long names before it applied."""
        extensions = b""
        while (header := await self._header()) is not None:
            block, info = header
            if info.type not in EXTENSION_TYPES | LONG_NAME_TYPES:
                _check_type(info)
                applied = _apply(self._globals + extensions + block)
                _check_type(applied)
                return applied
            extension = block + await self._extension_body(info, len(extensions) + len(self._globals))
            if info.type == tarfile.XGLTYPE:
                self._globals += extension
            else:
                extensions += extension
        if extensions:
            raise MalformedBundle("the tar archive ends after an extended header: a member must follow it")
        return None

    async def _header(self) -> tuple[bytes, tarfile.TarInfo] | None:
        block = await self._source.read_exactly(BLOCK)
        if self._is_first:
            _check_format(block)
            self._is_first = False
        if block == END_BLOCK:
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise MalformedBundle(f"the upload is not a tar archive ({error}): {SEND_TAR}") from None
        if info.size < 0:
            raise UnsafeArchive(f"a tar member claims a size of {info.size} bytes: {SEND_TAR}")
        return block, info

    async def _extension_body(self, info: tarfile.TarInfo, num_seen: int) -> bytes:
        num_total = num_seen + BLOCK + info.size
        if num_total > MAX_EXTENSION_BYTES:
            raise UnsafeArchive(
                f"an extended tar header claims {num_total:,} bytes, {MAX_EXTENSION_BYTES:,} are allowed: {SEND_TAR}"
            )
        return await self._source.read_exactly(info.size + -info.size % BLOCK)

    def _check_folder(self, info: tarfile.TarInfo) -> None:
        self._num_folders += 1
        parts = _path_parts(info.name)
        if len(parts) > 1 or info.size or self._num_folders > MAX_FOLDERS:
            raise UnsafeArchive(f"the tar holds the folder {info.name!r}: one leading folder is allowed, no other")

    def _file_name(self, info: tarfile.TarInfo) -> str:
        parts = _path_parts(info.name)
        folder = "/".join(parts[:-1])
        if self._folder is None:
            self._folder = folder
        if not parts or len(parts) > 2 or folder != self._folder:
            raise UnsafeArchive(f"the tar holds {info.name!r}: its files must lie side by side, at most in one folder")
        return parts[-1]


def _apply(headers: bytes) -> tarfile.TarInfo:
    """Let `tarfile` put extension headers and the member's own header together. It sees headers only, never content."""
    try:
        with tarfile.TarFile(fileobj=io.BytesIO(headers), encoding="utf-8", errors="surrogateescape") as archive:
            info = archive.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise MalformedBundle(f"a tar header cannot be read ({error}): {SEND_TAR}") from None
    if info is None:
        raise MalformedBundle(f"a tar header cannot be read: {SEND_TAR}")
    return info


def _check_type(info: tarfile.TarInfo) -> None:
    is_plain = info.type in FILE_TYPES and not info.issparse()
    if not is_plain and not info.isdir():
        raise UnsafeArchive(f"the tar holds {info.name!r}, a {_kind(info)}: only plain files are allowed")
    if info.size < 0:
        raise UnsafeArchive(f"the tar member {info.name!r} claims a size of {info.size} bytes: {SEND_TAR}")


def _kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "link"
    if info.isdev():
        return "device or pipe"
    return "sparse file" if info.issparse() else f"member of type {info.type!r}"


def _path_parts(name: str) -> list[str]:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UnsafeArchive(f"the tar holds the name {name!r}: names must be relative, without '..'")
    return [part for part in parts if part not in ("", ".")]


def _check_format(block: bytes) -> None:
    for magic, name in OTHER_FORMATS.items():
        if block.startswith(magic):
            raise MalformedBundle(f"the upload looks like {name}: {SEND_TAR}")


class ByteSource:
    """An async stream of chunks, read as bytes by count and up to a total."""

    def __init__(self, stream: AsyncIterator[bytes], max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._num_seen = 0
        self._rest = memoryview(b"")

    async def read_any(self, max_bytes: int) -> bytes:
        """Between one byte and `max_bytes`; nothing at the end of the stream."""
        while not self._rest:
            chunk = await anext(self._stream, None)
            if chunk is None:
                return b""
            self._count(len(chunk))
            self._rest = memoryview(chunk)
        data, self._rest = bytes(self._rest[:max_bytes]), self._rest[max_bytes:]
        return data

    async def read(self, max_bytes: int) -> bytes:
        """Like `read_any`, but the end of the stream is MalformedBundle."""
        data = await self.read_any(max_bytes)
        if not data:
            raise MalformedBundle(f"the upload ends early, after {self._num_seen:,} bytes: send the whole bundle again")
        return data

    async def read_exactly(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            data += await self.read(num_bytes - len(data))
        return bytes(data)

    def _count(self, num_bytes: int) -> None:
        self._num_seen += num_bytes
        if self._num_seen > self._max_bytes:
            raise BundleTooLarge(
                f"the upload has {self._num_seen:,} bytes or more, {self._max_bytes:,} are allowed in all: make the "
                "adapter smaller, or ask for a higher upload limit"
            )


async def read_multipart(stream: AsyncIterator[bytes], content_type: str, draft: Draft) -> SpooledBundle:
    """Read `multipart/form-data` with the fields manifest, tensors and card (or the files' own names) into the draft.

    Raises MalformedBundle, UnsafeArchive (a field twice), BundleTooLarge or DiskFull.
    """
    source = ByteSource(stream, draft.max_total_bytes + ENVELOPE_BYTES)
    events = PartEvents(_boundary(content_type))
    while data := await source.read_any(CHUNK_BYTES):
        for event in events.feed(data):
            await _apply_event(event, draft)
    if not events.has_ended:
        raise MalformedBundle("the multipart upload ends before its closing boundary: send the whole bundle again")
    return await draft.finish()


class PartEvent(NamedTuple):
    """`file_name` begins a file, `data` continues it, neither ends it."""

    file_name: str | None = None
    data: bytes | None = None


async def _apply_event(event: PartEvent, draft: Draft) -> None:
    if event.file_name is not None:
        await draft.begin(event.file_name)
    elif event.data is not None:
        await draft.write(event.data)
    else:
        await draft.end()


class PartEvents:
    """Turns python_multipart's callbacks, which cannot await, into a list of events per chunk."""

    def __init__(self, boundary: bytes) -> None:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise MalformedBundle(f"the multipart boundary cannot be used: {error}") from None
        self._events: list[PartEvent] = []
        self._field, self._value = b"", b""
        self._disposition = b""
        self.has_ended = False

    def feed(self, data: bytes) -> list[PartEvent]:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedBundle(f"the multipart upload cannot be read: {error}") from None
        events, self._events = self._events, []
        return events

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        self._events.append(PartEvent(file_name=_field_file(self._disposition)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartEvent(data=bytes(data[start:end])))

    def _on_part_end(self) -> None:
        self._events.append(PartEvent())

    def _on_end(self) -> None:
        self.has_ended = True


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise MalformedBundle(f"Content-Type is {content_type!r}: multipart/form-data with a boundary is needed")
    return boundary


def _field_file(disposition: bytes) -> str:
    _, options = parse_options_header(disposition.decode("latin-1"))
    field: str = options.get(b"name", b"").decode("utf-8", "replace")
    if field not in FIELDS:
        raise MalformedBundle(f"the upload has the field {field!r}: manifest, tensors and card are allowed")
    return FIELDS[field]
