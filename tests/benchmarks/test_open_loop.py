"""The open-loop load: when requests are due, and that every one of them is accounted for, whatever becomes of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from open_loop import NO_ANSWER, Answer, Call, Latencies, Load, arrivals, message_of, run_calls

Handle = Callable[[socket.socket, bytes], bool]


@contextmanager
def server(handle: Handle) -> Iterator[int]:
    """A server on a port of its own; `handle` gets each request and says whether the connection goes on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, handle), daemon=True).start()
        yield listener.getsockname()[1]


def accept(listener: socket.socket, handle: Handle) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection, handle), daemon=True).start()


def answer(connection: socket.socket, handle: Handle) -> None:
    with connection:
        while request := connection.recv(65536):
            if not handle(connection, request):
                return


def respond(connection: socket.socket, status: bytes) -> bool:
    connection.sendall(b"HTTP/1.1 " + status + b" x\r\nContent-Length: 2\r\n\r\nok")
    return True


def test_every_call_has_an_answer_of_its_kind() -> None:
    def handle(connection: socket.socket, request: bytes) -> bool:
        return respond(connection, b"200" if b" /good " in request else b"503")

    calls = [Call(0.01 * turn, "good", message_of("POST", "/good", b"{}")) for turn in range(10)]
    calls += [Call(0.01 * turn, "bad", message_of("GET", "/bad")) for turn in range(3)]
    with server(handle) as port:
        answers = run_calls(port, calls)
    assert sorted(one.kind for one in answers) == ["bad"] * 3 + ["good"] * 10
    assert {one.status for one in answers if one.kind == "bad"} == {503}
    assert Latencies.of(answers).num_failures == 3


def test_a_latency_counts_from_when_the_request_was_due() -> None:
    with server(lambda connection, _: respond(connection, b"200")) as port:
        (late,) = run_calls(port, [Call(-5.0, "late", message_of("GET", "/"))])
    assert late.latency_s >= 5
    assert late.late_s >= 5


def test_what_is_not_answered_is_a_failure() -> None:
    with server(lambda *_: False) as port:
        (lost,) = run_calls(port, [Call(0.0, "lost", message_of("GET", "/"))])
    assert lost.status == NO_ANSWER
    (refused,) = run_calls(port, [Call(0.0, "refused", message_of("GET", "/"))])
    assert refused.status == NO_ANSWER


async def answered(load: Load, num_answers: int) -> None:
    """Send one more, and wait for its answer."""
    load.send(Call(0.0, "one", message_of("GET", "/")))
    while len(load.answers) < num_answers:  # noqa: ASYNC110 - the load has an event for the last one alone
        await asyncio.sleep(0.001)


async def test_a_connection_is_used_again() -> None:
    connections = set()

    def handle(connection: socket.socket, _: bytes) -> bool:
        connections.add(connection)
        return respond(connection, b"200")

    with server(handle) as port:
        load = Load(port, 3, asyncio.get_running_loop())
        for num_answers in (1, 2, 3):
            await answered(load, num_answers)
        load.close()
    assert len(connections) == 1


async def test_a_connection_that_the_server_let_go_is_not_used_again() -> None:
    def handle(connection: socket.socket, _: bytes) -> bool:
        respond(connection, b"200")
        return False

    with server(handle) as port:
        load = Load(port, 3, asyncio.get_running_loop())
        for num_answers in (1, 2, 3):
            await answered(load, num_answers)
            while load._idle[-1].is_open:  # noqa: ASYNC110 - it is told so by the kernel
                await asyncio.sleep(0.001)
        load.close()
    assert [one.status for one in load.answers] == [200] * 3


def test_arrivals_are_spread_over_the_time_at_the_rate() -> None:
    due = arrivals(100, 50, np.random.default_rng(0))
    assert due == sorted(due)
    assert due[-1] < 50
    assert 0.95 < len(due) / 5000 < 1.05
    gaps = np.diff(due)
    assert 0.9 < gaps.std() / gaps.mean() < 1.1, "independent callers: gaps vary as much as they last"


def test_percentiles_are_in_milliseconds() -> None:
    seen = Latencies.of([Answer("x", 200, latency / 1000, 0.0) for latency in range(101)])
    assert (seen.p50_ms, seen.p95_ms, seen.p99_ms) == (50, 95, 99)
