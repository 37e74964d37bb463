"""Head and body of an answer leave together; a stream is not held back."""

from __future__ import annotations

import asyncio
from typing import Any

from prefixrack_server.one_write import MAX_HELD_BYTES, HoldingTransport


class NotingTransport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.is_closed = False

    def writelines(self, parts: list[bytes]) -> None:
        self.writes.append(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


def held(transport: NotingTransport) -> Any:
    return HoldingTransport(transport, asyncio.get_running_loop())  # type: ignore[arg-type]


async def test_what_is_written_in_one_turn_leaves_at_its_end() -> None:
    transport = NotingTransport()
    holding = held(transport)
    for part in (b"head", b" and ", b"body"):
        holding.write(part)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"head and body"]
    holding.write(b"next")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.writes == [b"head and body", b"next"]


async def test_a_stream_is_written_as_it_comes() -> None:
    transport = NotingTransport()
    holding = held(transport)
    for _ in range(4):
        holding.write(b"x" * MAX_HELD_BYTES)
        holding.write(b"y")
    assert len(transport.writes) == 4
    await asyncio.sleep(0)
    assert len(b"".join(transport.writes)) == 4 * (MAX_HELD_BYTES + 1)


async def test_nothing_is_lost_at_the_end() -> None:
    transport = NotingTransport()
    holding = held(transport)
    holding.write(b"last words")
    holding.close()
    assert (transport.writes, transport.is_closed) == ([b"last words"], True)
    await asyncio.sleep(0)
    assert transport.writes == [b"last words"]


async def test_everything_else_is_the_transports() -> None:
    assert held(NotingTransport()).get_extra_info("peername") == "the peername"
