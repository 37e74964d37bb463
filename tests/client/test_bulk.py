"""`predict_many`: order, bounded reading ahead, faults of single inputs, batches that are too large."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from prefixrack import AsyncClient, AuthenticationError, Client
from prefixrack.types import AnyOutput, FailedOutput


class EchoServer:
    """Labels each text with itself; "" fails alone; refuses batches over `max_inputs` and those without a key."""

    def __init__(self, wire: Any, *, max_inputs: int = 1000, num_slow: int = 0) -> None:
        self._wire = wire
        self._max_inputs = max_inputs
        self.batches: list[list[str]] = []
        self._lock = threading.Lock()
        self._later = threading.Event()
        self._num_slow = num_slow

    def respond(self, request: httpx2.Request) -> httpx2.Response:
        inputs = json.loads(request.content)["inputs"]
        with self._lock:
            self.batches.append(inputs)
        if self._num_slow:
            self._finish_backwards(inputs)
        return self._answer(inputs)

    def _finish_backwards(self, inputs: list[str]) -> None:
        """The first batch answers only after a later one did."""
        if inputs[0] == "0":
            assert self._later.wait(60)
        else:
            self._later.set()

    def _answer(self, inputs: list[str]) -> httpx2.Response:
        if len(inputs) > self._max_inputs or any(len(text) > 99 for text in inputs):
            return self._problem(413, "payload_too_large")
        outputs = [self._wire.label(text) if text else self._wire.failed() for text in inputs]
        if all("error" in output for output in outputs):
            return self._problem(422, "all_inputs_failed", errors=[output["error"] for output in outputs])
        return self._prediction(outputs)

    def _problem(self, status: int, code: str, **more: Any) -> httpx2.Response:
        response: httpx2.Response = self._wire.problem(status, code, **more)
        return response

    def _prediction(self, outputs: list[dict[str, Any]]) -> httpx2.Response:
        response: httpx2.Response = self._wire.prediction(*outputs)
        return response


def shown(output: AnyOutput) -> str:
    return output.error.code if isinstance(output, FailedOutput) else str(getattr(output, "label", None))


def client_of(server: EchoServer) -> Client:
    return Client("http://rack", transport=httpx2.MockTransport(server.respond))


def async_client_of(server: EchoServer) -> AsyncClient:
    return AsyncClient("http://rack", transport=httpx2.MockTransport(server.respond))


def test_results_come_in_order_though_batches_finish_out_of_order(wire: Any) -> None:
    server = EchoServer(wire, num_slow=1)
    texts = [str(number) for number in range(25)]
    with client_of(server) as client:
        outputs = list(client.predict_many("intent", texts, concurrency=3, batch_size=4))
    assert [shown(output) for output in outputs] == texts
    assert sorted(len(batch) for batch in server.batches) == [1, 4, 4, 4, 4, 4, 4]


def test_an_endless_iterable_is_read_a_bounded_way_ahead(wire: Any) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken)

    with client_of(EchoServer(wire)) as client:
        outputs = client.predict_many("intent", endless(), concurrency=3, batch_size=5)
        for number in range(1, 101):
            assert shown(next(outputs)) == str(number)
            assert taken - number < 3 * 5
        outputs.close()  # type: ignore[attr-defined]


def test_faults_of_inputs_stay_in_their_places(wire: Any) -> None:
    texts = ["a", "", "b", "", "", "", "c"]
    with client_of(EchoServer(wire)) as client:
        outputs = [shown(output) for output in client.predict_many("intent", texts, batch_size=2)]
    assert outputs == ["a", "empty_input", "b", "empty_input", "empty_input", "empty_input", "c"]


def test_a_batch_that_is_too_large_is_halved(wire: Any) -> None:
    server = EchoServer(wire, max_inputs=3)
    texts = [*"abcdefg", "x" * 100, "h"]
    with client_of(server) as client:
        outputs = [shown(output) for output in client.predict_many("intent", texts, batch_size=9)]
    assert outputs == [*"abcdefg", "payload_too_large", "h"]


def test_other_errors_end_the_iteration(script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("a")), wire.problem(401, "invalid_key"))
    outputs = script.client().predict_many("intent", ["a", "b", "c"], batch_size=1, concurrency=1)
    assert shown(next(outputs)) == "a"
    with pytest.raises(AuthenticationError):
        next(outputs)


@pytest.mark.parametrize("sizes", [{"concurrency": 0}, {"batch_size": 0}])
def test_sizes_are_checked_at_once(script: Any, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        script.client().predict_many("intent", [], **sizes)


def test_no_inputs_no_requests(script: Any) -> None:
    assert list(script.client().predict_many("intent", [])) == []


async def test_async_takes_iterables_of_both_kinds(wire: Any) -> None:
    async def texts() -> AsyncIterator[str]:
        for number in range(11):
            await asyncio.sleep(0)
            yield str(number)

    async with async_client_of(EchoServer(wire, max_inputs=2)) as client:
        from_async = [shown(output) async for output in client.predict_many("intent", texts(), batch_size=4)]
        from_list = [shown(output) async for output in client.predict_many("intent", ["a", "", "b"], batch_size=4)]
    assert from_async == [str(number) for number in range(11)]
    assert from_list == ["a", "empty_input", "b"]


async def test_async_reads_an_endless_iterable_a_bounded_way_ahead(wire: Any) -> None:
    taken = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield str(taken)

    async with async_client_of(EchoServer(wire)) as client:
        outputs = client.predict_many("intent", endless(), concurrency=3, batch_size=5)
        for number in range(1, 101):
            assert shown(await anext(outputs)) == str(number)
            assert taken - number < 3 * 5
        await outputs.aclose()  # type: ignore[attr-defined]


async def test_leaving_early_cancels_what_is_under_way(wire: Any) -> None:
    never = asyncio.Event()
    num_cancelled = 0

    async def respond(request: httpx2.Request) -> httpx2.Response:
        nonlocal num_cancelled
        inputs = json.loads(request.content)["inputs"]
        if inputs != ["0"]:
            try:
                await never.wait()
            except asyncio.CancelledError:
                num_cancelled += 1
                raise
        response: httpx2.Response = wire.prediction(wire.label(inputs[0]))
        return response

    async with AsyncClient("http://rack", transport=httpx2.MockTransport(respond)) as client:
        outputs = client.predict_many("intent", map(str, range(100)), concurrency=3, batch_size=1)
        assert shown(await anext(outputs)) == "0"
        await outputs.aclose()  # type: ignore[attr-defined]
    assert num_cancelled <= 2
    assert len(asyncio.all_tasks()) == 1
