from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path

import pytest
from sqlalchemy import text

from prefixrack_server.registry.engines import open_transactions
from prefixrack_server.registry.transactions import Conn, Transactions

NAME: ContextVar[str] = ContextVar("name", default="nobody")


@pytest.fixture
async def transactions(tmp_path: Path) -> AsyncIterator[Transactions]:
    """Of SQLite; those of PostgreSQL are what every test of the registry runs over."""
    opened = open_transactions(f"sqlite:///{tmp_path / 'some.sqlite3'}")
    await opened.write(lambda conn: conn.execute(text("CREATE TABLE things (name TEXT)")))
    yield opened
    await opened.close()


async def names(transactions: Transactions) -> list[str]:
    async def look(conn: Conn) -> list[str]:
        return list((await conn.execute(text("SELECT name FROM things"))).scalars())

    return await transactions.read(look)


async def test_a_transaction_is_all_in_one_other_thread(transactions: Transactions) -> None:
    threads: list[int] = []

    async def add(conn: Conn) -> None:
        for name in ("a", "b"):
            await conn.execute(text("INSERT INTO things VALUES (:name)"), {"name": name})
            threads.append(await transactions.aside(threading.get_ident))

    await transactions.write(add)
    assert await names(transactions) == ["a", "b"]
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_what_fails_has_changed_nothing(transactions: Transactions) -> None:
    async def add(conn: Conn) -> None:
        await conn.execute(text("INSERT INTO things VALUES ('a')"))
        raise KeyError

    with pytest.raises(KeyError):
        await transactions.write(add)
    assert await names(transactions) == []


async def test_a_transaction_that_waits_for_something_else_is_our_mistake(transactions: Transactions) -> None:
    async def add(conn: Conn) -> None:
        await conn.execute(text("INSERT INTO things VALUES ('a')"))
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="waits for something other"):
        await transactions.write(add)
    assert await names(transactions) == []


async def test_the_context_of_the_caller_goes_along(transactions: Transactions) -> None:
    NAME.set("somebody")

    async def look(_conn: Conn) -> str:
        return NAME.get()

    assert await transactions.read(look) == "somebody"


async def test_who_comes_after_the_end_opens_it_anew(transactions: Transactions) -> None:
    await transactions.close()
    await transactions.write(lambda conn: conn.execute(text("INSERT INTO things VALUES ('late')")))
    assert await names(transactions) == ["late"]
