"""The engines: how SQLite and PostgreSQL are connected to, and what their errors mean. Knows no tables."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from prefixrack_server.disk import is_disk_full
from prefixrack_server.registry.transactions import AwaitedTransactions, ThreadTransactions, Transactions

SQLITE: Final = "sqlite"
BUSY_TIMEOUT_MS: Final = 30_000
RETRY_SECONDS: Final = 0.02
# FULL: a commit is on the disk before it is acknowledged, in WAL mode too.
SQLITE_PRAGMAS: Final = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
SQLITE_AWAY: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
PRIMARY_CODE: Final = 0xFF  # SQLite's extended codes have their family in the lowest byte

POSTGRES_DRIVER: Final = "postgresql+psycopg"
POSTGRES_DISK_FULL: Final = "53100"
# Classes of SQLSTATE that pass by themselves: broken connections, too many of them, a server that stops or starts, a
# standby not yet promoted, a lock that was waited for too long, a transaction that sat idle, conflicts of transactions.
POSTGRES_AWAY: Final = ("08", "53", "57P", "25006", "25P03", "55P03", "40")
# Whoever vanishes with the writers' lock must not hold up all other replicas for the two hours that TCP would wait.
POSTGRES_OPTIONS: Final = "-c lock_timeout=20s -c idle_in_transaction_session_timeout=30s"
POSTGRES_CONNECT: Final = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "options": POSTGRES_OPTIONS,
}
MIGRATION_LOCK: Final = 0x7072_6678  # "prfx": any number that nobody else locks in this database


def open_transactions(url: str) -> Transactions:
    """Nothing has connected yet. What a PostgreSQL URL says itself in its query is left as it is."""
    parsed = make_url(url)
    if parsed.get_backend_name() == SQLITE:
        return ThreadTransactions(_prepare_sqlite(create_engine(parsed.set(drivername=SQLITE))))
    return AwaitedTransactions(create_async_engine(_completed(parsed), pool_pre_ping=True))


def make_file(url: str) -> None:
    """Write-ahead logging is a lasting mark in the file. While another process sets it on a new file, SQLite answers
    "locked" at once, whatever the busy timeout is: hence the turns here. Blocks."""
    parsed = make_url(url)
    path = parsed.database
    if parsed.get_backend_name() != SQLITE or not path or path == ":memory:":
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
        _log_ahead(connection, time.monotonic() + BUSY_TIMEOUT_MS / 1000)


def lock_migrations(connection: Connection) -> None:
    """Until the end of the transaction nobody else migrates: replicas may start at once. SQLite's has begun with a
    lock."""
    if connection.dialect.name != SQLITE:
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})


def is_database_full(error: DBAPIError) -> bool:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if isinstance(cause, OSError):
        return is_disk_full(cause)
    return getattr(cause, "sqlstate", None) == POSTGRES_DISK_FULL


def is_away(error: DBAPIError) -> bool:
    """Whether the database cannot be reached or used now, and may be again by itself."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & PRIMARY_CODE in SQLITE_AWAY
    state = getattr(cause, "sqlstate", None)
    if state is None:  # libpq gives none where no connection came about or one broke
        return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
    return error.connection_invalidated or state.startswith(POSTGRES_AWAY)


def _completed(url: URL) -> URL:
    missing = {key: value for key, value in POSTGRES_CONNECT.items() if key not in url.query}
    return url.set(drivername=POSTGRES_DRIVER).update_query_dict(missing)


def _prepare_sqlite(engine: Engine) -> Engine:
    """The driver's own transactions begin late and never lock: switch them off and begin explicitly."""

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in SQLITE_PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin_with", "BEGIN"))

    return engine


def _log_ahead(connection: sqlite3.Connection, give_up_at: float) -> None:
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
        time.sleep(RETRY_SECONDS)
