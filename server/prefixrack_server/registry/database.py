"""The database: connections, transactions and the revision counter. Knows the tables `revision`, `tenants` and `audit`
only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prefixrack.errors import InvalidRequest, RegistryUnavailable
from prefixrack_server.disk import disk_full
from prefixrack_server.registry import tables
from prefixrack_server.registry.engines import (
    is_away,
    is_database_full,
    lock_migrations,
    make_file,
    open_transactions,
)
from prefixrack_server.registry.migrations import upgrade
from prefixrack_server.registry.outage import Outage
from prefixrack_server.registry.principal import Actor
from prefixrack_server.registry.transactions import Conn, Transactions, Work

P = ParamSpec("P")
T = TypeVar("T")

Clock = Callable[[], datetime]

# A server that starts beside its database waits so long for it.
START_PATIENCE_S: Final = 60.0
START_PAUSE_S: Final = 0.5

NEXT_REVISION: Final = (
    update(tables.revision).values(value=tables.revision.c.value + 1).returning(tables.revision.c.value)
)

log = structlog.stdlib.get_logger("prefixrack.registry")


def utc_now() -> datetime:
    return datetime.now(UTC)


def as_text(moment: datetime) -> str:
    """The one way in which times are stored: their order as text is their order in time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Write:
    """A transaction that changes something. `revision` is the one that this change brings about."""

    conn: Conn
    revision: int
    now: datetime
    transactions: Transactions

    @property
    def now_text(self) -> str:
        return as_text(self.now)

    async def record(self, tenant: str, actor: Actor, action: str, target: str, **detail: Any) -> None:
        """Add a line to the audit log, in the same transaction as the change itself.

        `tenant` is whose things were changed. Where a value was replaced, `detail` has it as `before` and `after`.
        """
        line = {"at": self.now_text, "tenant": tenant, "action": action, "target": target, "detail": detail}
        who = {"key_id": actor.key_id, "request_id": actor.request_id}
        await self.conn.execute(insert(tables.audit), line | who)

    async def aside(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what blocks, such as the disk."""
        return await self.transactions.aside(function, *args, **kwargs)


Change = Callable[[Write], Coroutine[Any, Any, T]]


class Database:
    """Readers run side by side; writers take turns, in this process by a lock and across processes in SQL."""

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._write_lock = asyncio.Lock()
        self._clock = clock
        self._outage = Outage()

    @classmethod
    async def open(
        cls, url: str, clock: Clock, is_migrated: bool = False, patience_s: float = START_PATIENCE_S
    ) -> Database:
        """Connect, and bring the schema up to date where nobody has.

        Raises RegistryUnavailable for a database that does not answer within `patience_s`.
        """
        await asyncio.to_thread(make_file, url)
        database = cls(open_transactions(url), clock)
        try:
            await database._await_answer(patience_s)
            if not is_migrated:
                await database.fill(upgrade)
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        await self._transactions.close()

    @property
    def is_away(self) -> bool:
        """Whether it did not answer the last time that somebody asked."""
        return self._outage.is_on

    def now(self) -> datetime:
        return self._clock()

    async def read(self, work: Work[T]) -> T:
        """Look at one consistent view of the data. Raises RegistryUnavailable."""

        async def answered(conn: Conn) -> T:
            self._outage.end()
            return await work(conn)

        with self._naming_faults():
            return await self._transactions.read(answered)

    async def write(self, change: Change[T]) -> T:
        """All or nothing. The revision's row is locked first, so what is read here cannot change until the commit.

        Raises DiskFull, and nothing is changed then; or RegistryUnavailable, and where that comes from the commit
        itself, nobody knows.
        """

        async def numbered(conn: Conn) -> T:
            revision = await self._next_revision(conn)
            return await change(Write(conn, revision, self._clock(), self._transactions))

        return await self.append(numbered)

    async def append(self, work: Work[T]) -> T:
        """A transaction for records that nobody remembers: it brings about no new revision.

        Raises DiskFull or RegistryUnavailable.
        """

        async def answered(conn: Conn) -> T:
            self._outage.end()
            return await work(conn)

        with self._naming_faults():
            async with self._write_lock:
                return await self._transactions.write(answered)

    async def revision(self) -> int:
        return int(await self.read(lambda conn: conn.scalar(select(tables.revision.c.value))) or 0)

    async def schema_revision(self) -> str:
        """The newest migration that was run."""
        return str(await self.read(lambda conn: conn.scalar(text("SELECT version_num FROM alembic_version"))))

    async def _next_revision(self, conn: Conn) -> int:
        return int((await conn.execute(NEXT_REVISION)).scalar_one())

    @contextmanager
    def _naming_faults(self) -> Iterator[None]:
        """Turn the driver's errors into faults where they have a name."""
        self._outage.check()
        try:
            yield
        except PoolTimeout as error:
            raise self._outage.begin() from error
        except DataError as error:
            raise InvalidRequest(
                "the request holds a value that the registry's database cannot take, such as a NUL character or too "
                "long a text: send another one"
            ) from error
        except DBAPIError as error:
            raise self._fault_of(error) from error

    def _fault_of(self, error: DBAPIError) -> Exception:
        if is_database_full(error):
            return disk_full("the registry")
        return self._outage.begin() if is_away(error) else error

    async def _await_answer(self, patience_s: float) -> None:
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                await self.read(lambda conn: conn.execute(text("SELECT 1")))
                return
            except RegistryUnavailable as fault:
                if time.monotonic() > give_up_at:
                    raise
                log.warning("waiting for the registry's database", reason=str(fault.__cause__)[:300])
            await asyncio.sleep(START_PAUSE_S)

    async def fill(self, work: Callable[[Connection], None]) -> None:
        """One transaction in which nobody else migrates, for work on the schema itself. All or nothing."""

        async def alone(conn: Conn) -> None:
            await conn.run_sync(lock_migrations)
            await conn.run_sync(work)

        with self._naming_faults():
            await self._transactions.write(alone)
