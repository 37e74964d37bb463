"""The database: connections, transactions and the revision counter. Knows the tables `revision`, `tenants` and `audit`
only."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, event, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from prefixrack_server.disk import disk_full, is_disk_full
from prefixrack_server.registry import tables
from prefixrack_server.registry.migrations import upgrade

Clock = Callable[[], datetime]

BUSY_TIMEOUT_MS: Final = 30_000
POSTGRES_DISK_FULL: Final = "53100"
RETRY_SECONDS: Final = 0.02
# FULL: a commit is on the disk before it is acknowledged, in WAL mode too.
SQLITE_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


def utc_now() -> datetime:
    return datetime.now(UTC)


def as_text(moment: datetime) -> str:
    """The one way in which times are stored: their order as text is their order in time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction that changes something. `revision` is the one that this change brings about."""

    conn: AsyncConnection
    revision: int
    now: datetime

    @property
    def now_text(self) -> str:
        return as_text(self.now)

    async def record(self, tenant: str, key_id: str, action: str, target: str, **detail: Any) -> None:
        """Add a line to the audit log, in the same transaction as the change itself."""
        line = {"at": self.now_text, "tenant": tenant, "key_id": key_id, "action": action, "target": target}
        await self.conn.execute(insert(tables.audit).values(**line, detail=detail))


class Database:
    """Readers run side by side; writers take turns, in this process by a lock and across processes in SQL."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._writing_engine = engine.execution_options(begin_with="BEGIN IMMEDIATE")
        self._write_lock = asyncio.Lock()
        self._clock = clock

    @classmethod
    async def open(cls, url: str, clock: Clock, is_migrated: bool = False) -> Database:
        """Connect, and bring the schema up to date where nobody has."""
        engine = create_async_engine(url)
        if engine.dialect.name == "sqlite":
            await asyncio.to_thread(_make_file, engine.url.database)
            _prepare_sqlite(engine)
        database = cls(engine, clock)
        if is_migrated:
            return database
        try:
            async with database._writing_engine.begin() as conn:
                await conn.run_sync(upgrade)
        except BaseException:
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        await self._engine.dispose()

    def now(self) -> datetime:
        return self._clock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One consistent view of the data."""
        async with self._engine.connect() as conn:
            yield conn

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Write]:
        """All or nothing. The revision's row is locked first, so what is read here cannot change until the commit.

        Raises DiskFull; nothing is changed then.
        """
        try:
            async with self._write_lock, self._writing_engine.begin() as conn:
                revision = await self._next_revision(conn)
                yield Write(conn, revision, self._clock())
        except DBAPIError as error:
            if _is_disk_full(error):
                raise disk_full("the registry") from error
            raise

    async def revision(self) -> int:
        async with self.read() as conn:
            return int(await conn.scalar(select(tables.revision.c.value)) or 0)

    async def _next_revision(self, conn: AsyncConnection) -> int:
        column = tables.revision.c.value
        statement = update(tables.revision).values(value=column + 1).returning(column)
        return int((await conn.execute(statement)).scalar_one())


def _prepare_sqlite(engine: AsyncEngine) -> None:
    """The driver's own transactions begin late and never lock: switch them off and begin explicitly."""

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin_with", "BEGIN"))


def _make_file(path: str | None) -> None:
    """Write-ahead logging is a lasting mark in the file. While another process sets it on a new file, SQLite answers
    "locked" at once, whatever the busy timeout is: hence the turns here."""
    if not path or path == ":memory:":
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
        _log_ahead(connection, time.monotonic() + BUSY_TIMEOUT_MS / 1000)


def _log_ahead(connection: sqlite3.Connection, give_up_at: float) -> None:
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
        time.sleep(RETRY_SECONDS)


def _is_disk_full(error: DBAPIError) -> bool:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if isinstance(cause, OSError):
        return is_disk_full(cause)
    return getattr(cause, "sqlstate", None) == POSTGRES_DISK_FULL
