"""The backup: all that a registry holds, in one tar, whatever its database and blob store are. Knows no server.

Rows are read in one transaction, so they are of one moment; blobs never change, and those of versions that are deleted
meanwhile stay for the grace time. In the tar: `backup.json`, `tables/NAME.jsonl`, `blobs/SHA256`, and last `SHA256SUMS`
of all the others, without which it is not whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from sqlalchemy import Connection, MetaData, func, insert, select, text

from prefixrack.errors import PrefixrackError
from prefixrack_server.disk import sync_file, sync_folder
from prefixrack_server.registry import tables
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Database
from prefixrack_server.registry.migrations import upgrade

FORMAT: Final = "prefixrack-backup-1"
HEADER: Final = "backup.json"
SUMS: Final = "SHA256SUMS"
BATCH_ROWS: Final = 500
CHUNK_BYTES: Final = 1 << 20
# What a migrated database has before anybody used it.
INITIAL_TABLES: Final = frozenset({"revision", "alembic_version"})


class BackupFault(PrefixrackError):
    """A backup cannot be made, or is not whole, or cannot go where it shall."""


@dataclass(frozen=True, slots=True)
class BackupSummary:
    created_at: str
    schema_revision: str
    num_rows: dict[str, int]
    num_blobs: int

    @property
    def num_versions(self) -> int:
        return self.num_rows.get("versions", 0)


async def write_backup(database: Database, blobs: BlobStore, target: Path) -> BackupSummary:
    """Write `target`, which must not exist; it appears when it is whole and on the disk.

    Raises BackupFault, or BlobUnusable for a version whose files are damaged.
    """
    _check_absent(target)
    part = target.with_name(f"{target.name}.part")
    try:
        with tarfile.open(part, "w") as tar:
            summary = await _write(database, blobs, Writer(tar))
        await asyncio.to_thread(_finish, part, target)
    finally:
        part.unlink(missing_ok=True)
    return summary


def check_backup(source: Path) -> BackupSummary:
    """Read all of it, and see that every byte is as it was written. Raises BackupFault."""
    with opened(source) as tar:
        reader = Reader(tar)
        for _ in reader.members():
            pass
        return reader.summary()


async def restore_backup(database: Database, blobs: BlobStore, source: Path) -> BackupSummary:
    """Fill an empty registry. The database's rows come last and in one transaction, after everything was checked.

    `database` must not be migrated yet, or be empty. Raises BackupFault, DiskFull or RegistryUnavailable, and then the
    database is as it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        summary = await asyncio.to_thread(_unpack, source, Path(folder), blobs)
        await database.fill(lambda connection: _fill(connection, summary, Path(folder)))
    return summary


@dataclass
class Writer:
    """Adds members to a tar, and remembers their sums."""

    tar: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, content: IO[bytes]) -> None:
        hashed = hashlib.sha256()
        while chunk := content.read(CHUNK_BYTES):
            hashed.update(chunk)
        self.sums[name] = hashed.hexdigest()
        info = tarfile.TarInfo(name)
        info.size = content.tell()
        content.seek(0)
        self.tar.addfile(info, content)

    def finish(self) -> None:
        lines = "".join(f"{sha256}  {name}\n" for name, sha256 in self.sums.items())
        self.add(SUMS, io.BytesIO(lines.encode()))


@dataclass
class Reader:
    """Goes through a tar once, and checks it on the way."""

    tar: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    is_whole: bool = False

    def members(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Name and content of tables and blobs. What it said before is good only when it has come to its end."""
        try:
            for info in self.tar:
                content = self.tar.extractfile(info)
                if content is None or self.is_whole:
                    raise BackupFault(f"{info.name!r} does not belong into a backup")
                yield from self._member(info.name, content)
        except tarfile.TarError as error:
            raise BackupFault(f"the backup cannot be read to its end: {error}") from error
        if not self.is_whole:
            raise BackupFault(f"the backup has no {SUMS}: it was cut short")

    def _member(self, name: str, content: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
        if name == SUMS:
            self._check_sums(content.read().decode())
            return
        with tempfile.TemporaryFile() as copy:
            hashed = hashlib.sha256()
            while chunk := content.read(CHUNK_BYTES):
                hashed.update(chunk)
                copy.write(chunk)
            self.sums[name] = hashed.hexdigest()
            copy.seek(0)
            if name == HEADER:
                self.header = _header(copy.read())
            else:
                self._count(name, copy)
                copy.seek(0)
                yield name, copy

    def _count(self, name: str, content: IO[bytes]) -> None:
        folder, _, rest = name.partition("/")
        if folder == "tables":
            self.num_rows[rest.removesuffix(".jsonl")] = sum(1 for _ in content)
        elif folder != "blobs" or self.sums[name] != rest:
            raise BackupFault(f"{name!r} has sha256 {self.sums[name]}: the backup is damaged")

    def _check_sums(self, expected: str) -> None:
        seen = "".join(f"{sha256}  {name}\n" for name, sha256 in self.sums.items())
        if seen != expected:
            differing = sorted(set(seen.splitlines()) ^ set(expected.splitlines()))
            raise BackupFault(f"the backup is damaged: its sums differ, first {differing[:1]}")
        self.is_whole = True

    def summary(self) -> BackupSummary:
        num_blobs = sum(name.startswith("blobs/") for name in self.sums)
        return BackupSummary(self.header["created_at"], self.header["schema_revision"], self.num_rows, num_blobs)


def opened(source: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(source, "r:")
    except (tarfile.TarError, OSError) as error:
        raise BackupFault(f"{str(source)!r} is no backup that can be read: {error}") from error


async def _write(database: Database, blobs: BlobStore, writer: Writer) -> BackupSummary:
    revision = await database.schema_revision()
    header = {"format": FORMAT, "created_at": database.now().isoformat(), "schema_revision": revision}
    writer.add(HEADER, io.BytesIO(json.dumps(header).encode()))
    num_rows: dict[str, int] = {}

    def write_tables(connection: Connection) -> list[str]:
        for table in tables.metadata.sorted_tables:
            with tempfile.TemporaryFile() as rows:
                num_rows[table.name] = _write_rows(connection, table, rows)
                rows.seek(0)
                writer.add(f"tables/{table.name}.jsonl", rows)
        return _needed_blobs(connection)

    needed = await database.read(lambda conn: conn.run_sync(write_tables))
    for sha256 in needed:
        await asyncio.to_thread(_add_blob, writer, blobs, sha256)
    writer.finish()
    return BackupSummary(header["created_at"], revision, num_rows, len(needed))


def _write_rows(connection: Connection, table: Any, file: IO[bytes]) -> int:
    num_rows = 0
    every = select(table).order_by(*table.primary_key)
    for row in connection.execute(every, execution_options={"yield_per": BATCH_ROWS}).mappings():
        file.write(json.dumps(dict(row)).encode() + b"\n")
        num_rows += 1
    return num_rows


def _needed_blobs(connection: Connection) -> list[str]:
    table = tables.versions
    rows = connection.execute(select(table.c.manifest_sha256, table.c.tensors_sha256))
    return sorted({sha256 for row in rows for sha256 in row})


def _add_blob(writer: Writer, blobs: BlobStore, sha256: str) -> None:
    name = f"blobs/{sha256}"
    with blobs.local_path(sha256).open("rb") as content:
        writer.add(name, content)
    if writer.sums[name] != sha256:
        raise BackupFault(
            f"the blob {sha256} has sha256 {writer.sums[name]}: it is damaged; upload its adapter again, then back up"
        )


def _check_absent(target: Path) -> None:
    if target.exists():
        raise BackupFault(f"{str(target)!r} exists: name a new file")


def _finish(part: Path, target: Path) -> None:
    sync_file(part)
    part.rename(target)
    sync_folder(target.parent)


def _unpack(source: Path, folder: Path, blobs: BlobStore) -> BackupSummary:
    with opened(source) as tar:
        reader = Reader(tar)
        for name, content in reader.members():
            kind, _, rest = name.partition("/")
            if kind == "blobs":
                _store_blob(blobs, folder / "blob", rest, content)
            else:
                (folder / Path(rest).name).write_bytes(content.read())
        return reader.summary()


def _store_blob(blobs: BlobStore, path: Path, sha256: str, content: IO[bytes]) -> None:
    with path.open("wb") as file:
        while chunk := content.read(CHUNK_BYTES):
            file.write(chunk)
    blobs.put_file(sha256, path)


def _fill(connection: Connection, summary: BackupSummary, folder: Path) -> None:
    """At the schema that the rows are of; then on to this version's."""
    upgrade(connection, summary.schema_revision)
    schema = MetaData()
    schema.reflect(connection)
    for table in schema.sorted_tables:
        if table.name not in INITIAL_TABLES and connection.scalar(select(func.count()).select_from(table)):
            raise BackupFault(f"the database is not empty (table {table.name}): restore into a new one")
    connection.execute(schema.tables["revision"].delete())
    for table in schema.sorted_tables:
        for batch in _batches(folder / f"{table.name}.jsonl"):
            connection.execute(insert(table), batch)
    _advance_audit_ids(connection)
    upgrade(connection)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    if not path.exists():
        return
    batch: list[dict[str, Any]] = []
    with path.open("rb") as lines:
        for line in lines:
            batch.append(json.loads(line))
            if len(batch) == BATCH_ROWS:
                yield batch
                batch = []
    if batch:
        yield batch


def _advance_audit_ids(connection: Connection) -> None:
    """PostgreSQL counts on from where it was, not from the rows that were put in with their ids."""
    if connection.dialect.name == "postgresql":
        next_id = "SELECT setval(pg_get_serial_sequence('audit', 'id'), coalesce(max(id), 1)) FROM audit"
        connection.execute(text(next_id))


def _header(content: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(content)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise BackupFault(f"{HEADER} does not say {FORMAT!r}: it is no backup of this registry")
    return header
