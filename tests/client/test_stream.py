"""`predict_stream`: lines up and down, ids, answers that end early; `with_raw_response`; the caller's trace."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace

from prefixrack import APIConnectionError, NotFoundError
from prefixrack.lines import Line
from prefixrack.types import ClassificationOutput


def echo(wire: Any, num_left_out: int = 0) -> Any:
    def answer(request: httpx2.Request) -> httpx2.Response:
        lines = [json.loads(line) for line in request.read().splitlines()]
        return reply(lines)

    def reply(lines: list[dict[str, Any]]) -> httpx2.Response:
        shown = []
        for index, line in enumerate(lines[: len(lines) - num_left_out]):
            id_ = {"id": line["id"]} if "id" in line else {}
            outcome = {"output": wire.label(line["inputs"])} if line["inputs"] else wire.failed()
            shown.append(json.dumps({"index": index} | id_ | outcome))
        return httpx2.Response(200, text="\n".join(shown) + "\n", headers={"content-type": "application/jsonl"})

    return answer


def test_lines_go_up_and_come_down(script: Any, wire: Any) -> None:
    script.queue(echo(wire))
    answers = list(script.client().predict_stream("intent", iter(["a", Line("b", id="n2"), ""]), top_k=1))
    assert [(line.index, line.id) for line in answers] == [(0, None), (1, "n2"), (2, None)]
    assert answers[1].output.label == "b"
    assert answers[2].error.code == "empty_input"
    (request,) = script.requests
    assert request.headers["content-type"] == "application/jsonl"
    assert [json.loads(line)["parameters"] for line in request.content.splitlines()] == [{"top_k": 1}] * 3


def test_an_answer_that_ends_early_is_an_error(script: Any, wire: Any) -> None:
    script.queue(echo(wire, num_left_out=1), wire.problem(404, "adapter_not_found"), httpx2.Response(200, text="x\n"))
    client = script.client()
    answers = client.predict_stream("intent", ["a", "b"])
    assert next(answers).output.label == "a"
    with pytest.raises(APIConnectionError, match="ended after 1 answers to 2 lines"):
        next(answers)
    with pytest.raises(NotFoundError):
        next(client.predict_stream("intent", ["a"]))
    with pytest.raises(APIConnectionError, match="none of an answer"):
        next(client.predict_stream("intent", ["a"]))


def test_inputs_are_taken_as_they_are_sent(script: Any, wire: Any) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for number in range(5000):
            taken += 1
            yield f"{number} {'x' * 100}"

    def slow_reader(request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.SyncByteStream)
        sizes = []
        before = 0
        for chunk in request.stream:
            assert taken - before <= 1000  # lines of one chunk
            before = taken
            sizes.append(len(chunk))
        assert max(sizes) < 70_000
        return httpx2.Response(200, text="")

    script.queue(slow_reader)

    class Unread(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return slow_reader(request)

    from prefixrack import Client

    with Client("http://rack", transport=Unread()) as client, pytest.raises(APIConnectionError, match="0 answers"):
        list(client.predict_stream("intent", texts()))
    assert taken == 5000


async def test_the_asynchronous_stream_takes_iterables_of_both_kinds(script: Any, wire: Any) -> None:
    async def texts() -> AsyncIterator[str]:
        for text in "abc":
            await asyncio.sleep(0)
            yield text

    async def respond(request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        response: httpx2.Response = echo(wire)(request)
        return response

    from prefixrack import AsyncClient

    async with AsyncClient("http://rack", transport=httpx2.MockTransport(respond)) as client:
        for inputs in (texts(), ["a", "b", "c"]):
            labels = [line.output.label async for line in client.predict_stream("intent", inputs)]  # type: ignore[union-attr]
            assert labels == ["a", "b", "c"]


def test_a_value_with_its_response(script: Any, wire: Any) -> None:
    busy = wire.problem(503, "server_overloaded")
    good = wire.prediction(wire.label("a"))
    good.headers["x-request-id"] = "req-7"
    script.queue(busy, good, wire.problem(404, "adapter_not_found"))
    raw = script.client().with_raw_response
    got = raw.predict("intent", "hi", top_k=1)
    assert (got.status, got.request_id, got.value.outputs[0].label) == (200, "req-7", "a")
    assert got.response.content == good.content
    assert got.headers["content-type"] == "application/json"
    with pytest.raises(NotFoundError):
        raw.get_adapter("intent")


async def test_the_same_awaited(script: Any, wire: Any) -> None:
    script.queue(wire.detail())
    got = await script.async_client().with_raw_response.get_adapter("intent")
    assert (got.status, got.value.name) == (200, "intent")


# These send no request, or any number of them; `pull` keeps no whole response.
NOT_ONE_REQUEST = {
    *("close", "aclose", "with_options", "observed", "health", "pull", "map_file", "predict_many", "predict_stream"),
    *("list_adapters", "list_versions", "list_keys", "list_tenants", "list_audit", "list_usage"),
}


def test_every_method_that_sends_one_request_has_its_raw_twin(script: Any) -> None:
    for client in (script.client(), script.async_client()):
        public = {name for name, member in vars(type(client)).items() if callable(member) and name[0] != "_"}
        assert set(vars(client.with_raw_response)) == public - NOT_ONE_REQUEST


def test_typed_answers_have_their_response_too(script: Any, wire: Any) -> None:
    script.queue(*[wire.prediction(wire.label("a"))] * 2)
    raw = script.client().with_raw_response
    one = raw.classify("intent", "hi")
    many = raw.classify("intent", ["hi"])
    label: str = one.value.label  # mypy knows which overload it was
    assert (label, [output.label for output in many.value if isinstance(output, ClassificationOutput)]) == ("a", ["a"])
    assert one.status == many.status == 200


def test_the_callers_trace_goes_along_with_every_attempt(script: Any, wire: Any) -> None:
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    script.queue(wire.problem(503, "server_overloaded"), wire.prediction(wire.label("a")), wire.detail())
    client = script.client()
    with trace.use_span(trace.NonRecordingSpan(context)):
        client.predict("intent", "hi")
    client.get_adapter("intent")
    first, second, outside = script.requests
    assert first.headers["traceparent"] == second.headers["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert "traceparent" not in outside.headers


def test_without_a_trace_opentelemetry_is_not_loaded() -> None:
    code = "import sys; from prefixrack.connection import trace_headers; assert trace_headers() == {}; "
    code += "assert 'opentelemetry' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
