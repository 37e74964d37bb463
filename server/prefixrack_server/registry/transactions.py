"""The transactions: how work on the database is carried out. Knows no tables.

With PostgreSQL each statement is awaited. SQLite answers from this machine's memory: there a whole transaction is one
job in one thread, since hops between threads for each statement cost several times as much as the statement, most of it
in the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, CursorResult, Dialect, Engine, Executable
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prefixrack_server.daemon_threads import DaemonThreads

# One may write, or wait for the writers' lock of other processes; the others read.
NUM_THREADS: Final = 4

P = ParamSpec("P")
T = TypeVar("T")
Rows = CursorResult[*tuple[Any, ...]]


class Conn(Protocol):
    """A connection inside a transaction."""

    @property
    def dialect(self) -> Dialect: ...

    async def execute(self, statement: Executable, parameters: Any = None, /) -> Rows: ...

    async def scalar(self, statement: Executable, /) -> Any: ...

    async def run_sync(self, work: Callable[[Connection], T], /) -> T:
        """For what is written for a connection that blocks. Nothing else runs meanwhile."""


Work = Callable[[Conn], Coroutine[Any, Any, T]]


class Transactions(Protocol):
    """Work is all or nothing: it is committed when the coroutine has returned, and else undone."""

    async def read(self, work: Work[T]) -> T:
        """With one consistent view of the data."""

    async def write(self, work: Work[T]) -> T: ...

    async def aside(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Inside a transaction: call what blocks, such as the disk, without holding up the event loop."""

    async def close(self) -> None:
        """End what is open. Whoever comes later opens it anew: a process that is cut off writes last things down."""


class AwaitedTransactions:
    """Of a database that is reached over a socket."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    async def read(self, work: Work[T]) -> T:
        async with self._reading.connect() as conn:
            return await work(_awaited(conn))

    async def write(self, work: Work[T]) -> T:
        async with self._engine.begin() as conn:
            return await work(_awaited(conn))

    async def aside(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    async def close(self) -> None:
        await self._engine.dispose()


class ThreadTransactions:
    """Of a database in a file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(begin_with="BEGIN IMMEDIATE")
        self._threads = new_threads()

    async def read(self, work: Work[T]) -> T:
        return await self._in_thread(self._engine.connect, work)

    async def write(self, work: Work[T]) -> T:
        return await self._in_thread(self._writing.begin, work)

    async def aside(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)  # this is a thread of its own already

    async def close(self) -> None:
        threads, self._threads = self._threads, new_threads()
        threads.shutdown(wait=False)
        await asyncio.to_thread(threads.join)
        self._engine.dispose()

    async def _in_thread(self, opened: Callable[[], AbstractContextManager[Connection]], work: Work[T]) -> T:
        def job() -> T:
            with opened() as connection:
                return _finish(work(BlockingConn(connection)))

        # The context of the request goes along: log lines name it.
        return await asyncio.wrap_future(self._threads.submit(contextvars.copy_context().run, job))


def new_threads() -> DaemonThreads:
    """None of them runs before there is something to do."""
    return DaemonThreads(NUM_THREADS, "prefixrack-registry")


class BlockingConn:
    """A `Conn` that never waits for anybody: what is written for both kinds of databases runs on it in one go."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Executable, parameters: Any = None, /) -> Rows:
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Executable, /) -> Any:
        return self._connection.scalar(statement)

    async def run_sync(self, work: Callable[[Connection], T], /) -> T:
        return work(self._connection)


def _awaited(conn: AsyncConnection) -> Conn:
    return conn


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise AssertionError("a transaction waits for something other than its database: use `aside`")
