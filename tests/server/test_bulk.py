"""JSON Lines: in order, a broken line alone, bounded memory, and clients that read late or leave early."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from prefixrack.types import BulkLine
from prefixrack_server.bulk import MEMORY_BYTES, Line, Outbox, split_lines
from prefixrack_server.messages import RowFailure

PATIENCE_S = 300.0  # for what never comes
JSONL = {"Content-Type": "application/jsonl"}


@pytest.fixture
async def ready(server: Any, bundles: Any) -> Any:
    assert (await server.upload(bundles("intent"))).status_code == 201
    return server


def lines_of(response: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def post(server: Any, body: bytes) -> Any:
    return await server.client.post("/v1/intent/predict", content=body, headers=JSONL)


async def test_lines_come_back_in_order(ready: Any) -> None:
    body = "".join(json.dumps({"id": f"n{index}", "inputs": f"hello {index}"}) + "\n" for index in range(1500))
    response = await post(ready, body.encode())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/jsonl"
    lines = lines_of(response)
    assert [(line["index"], line["id"]) for line in lines] == [(index, f"n{index}") for index in range(1500)]
    one = (await ready.predict("intent", "hello 7")).json()["outputs"][0]
    assert lines[7]["output"] == one
    for line in lines[:10]:
        BulkLine.model_validate(line)


async def test_a_broken_line_fails_alone(ready: Any) -> None:
    lines = [
        b'{"inputs": "hello"}',
        b"{",
        b'{"inputs": ""}',
        b'{"inputs": ["hello"]}',
        b'{"id": [], "inputs": "hello"}',
        b'{"inputs": "hello", "parameters": {"nonsense": 1}}',
        b'{"inputs": "hello", "parameters": {"n_best": 1}}',
        b'{"id": 3, "inputs": "\\ud800"}',
        b"",
        b"\xff\xff",
        b'{"id": "last", "inputs": "hello", "parameters": {"top_k": 1}}',
    ]
    answers = lines_of(await post(ready, b"\r\n".join(lines)))
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes == [
        None,
        "malformed_json",
        "empty_input",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "invalid_unicode",
        "malformed_json",
        None,
    ]
    assert answers[7]["id"] == 3
    assert (answers[-1]["index"], answers[-1]["id"]) == (9, "last")
    assert len(answers[-1]["output"]["scores"]) == 1


async def test_a_number_out_of_range_fails_alone(ready: Any) -> None:
    lines = [b'{"id": 1e400, "inputs": "hello"}', b'{"id": 1e3, "inputs": "hello"}', b'{"id": -1e999, "inputs": "a"}']
    answers = lines_of(await post(ready, b"\n".join(lines)))
    assert [answer.get("error", {}).get("code") for answer in answers] == ["malformed_json", None, "malformed_json"]
    assert answers[1]["id"] == 1000


async def test_a_parameter_set_to_its_default_fails_alone(ready: Any) -> None:
    lines = [{"inputs": "hello"}, {"inputs": "hello", "parameters": {"n_best": None}}, {"inputs": "hello"}]
    alone = [lines_of(await post(ready, json.dumps(line).encode()))[0] for line in lines]
    together = lines_of(await post(ready, b"\n".join(json.dumps(line).encode() for line in lines)))
    assert ["error" in answer for answer in together] == ["error" in answer for answer in alone]
    assert "output" in together[0]


async def test_an_output_that_cannot_be_made_fails_alone(
    ready: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ready.app.state.services.predictor.tokeniser.task(bundles("intent").digest, None)
    finish = task.finish

    def broken(item: Any, *rest: Any) -> Any:
        if item.num_tokens > 4:
            raise KeyError("too much")
        return finish(item, *rest)

    monkeypatch.setattr(task, "finish", broken)
    body = b'{"inputs": "hello"}\n{"inputs": "hello a b c"}\n{"inputs": "hello"}'
    answers = lines_of(await post(ready, body))
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, "internal_error", None]


async def test_outputs_of_big_lines_are_made_in_a_thread(
    server: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.upload(bundles("ner", "token-classification"))
    task = server.app.state.services.predictor.tokeniser.task(bundles("ner", "token-classification").digest, None)
    finish, in_loop = task.finish, []

    def noting(*args: Any) -> Any:
        in_loop.append(threading.current_thread() is threading.main_thread())
        return finish(*args)

    monkeypatch.setattr(task, "finish", noting)
    body = b"\n".join(json.dumps({"inputs": "hello " * number}).encode() for number in (1, 5000))
    response = await server.client.post("/v1/ner/predict", content=body, headers=JSONL)
    assert all("output" in answer for answer in lines_of(response))
    assert in_loop == [True, False]


async def test_a_line_over_the_limit_fails_alone(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_line_bytes": 50}) as server:
        await server.upload(bundles("intent"))
        long = json.dumps({"inputs": "hello " * 100})
        short = json.dumps({"inputs": "hello"})
        answers = lines_of(await post(server, f"{short}\n{long}\n{short}\n{long}".encode()))
        assert [answer.get("error", {}).get("code") for answer in answers] == [
            None,
            "payload_too_large",
            None,
            "payload_too_large",
        ]


async def test_an_empty_body_has_no_answers(ready: Any) -> None:
    response = await post(ready, b"")
    assert (response.status_code, response.text) == (200, "")


async def test_faults_of_the_request_come_before_the_stream(ready: Any) -> None:
    response = await ready.client.post("/v1/nobody/predict", content=b"", headers=JSONL)
    assert (response.status_code, response.json()["code"]) == (404, "adapter_not_found")


async def test_a_full_server_makes_lines_wait_not_fail(serving: Any, bundles: Any) -> None:
    async with serving(limits={"max_queued_rows": 3, "bulk_window": 8}) as server:
        await server.upload(bundles("intent"))
        body = b"".join(json.dumps({"inputs": f"hello {index}"}).encode() + b"\n" for index in range(30))
        answers = lines_of(await post(server, body))
        assert [answer["index"] for answer in answers if "output" in answer] == list(range(30))


async def test_lines_over_their_tenants_share_wait_too(serving: Any, bundles: Any, until: Any) -> None:
    async with serving() as server:
        await server.upload(bundles("intent"))
        server.engine.failures[""] = RowFailure("queue_share_exceeded", "more than its share", 0.01)
        body = b'{"inputs": "hello"}\n' * 3
        task = asyncio.create_task(post(server, body))
        await until(lambda: len(server.engine.submitted) >= 4)
        server.engine.failures.clear()
        assert ["output" in answer for answer in lines_of(await task)] == [True] * 3


async def test_the_window_bounds_what_is_in_flight(serving: Any, bundles: Any, until: Any) -> None:
    async with serving(limits={"bulk_window": 5}) as server:
        await server.upload(bundles("intent"))
        server.engine.go.clear()
        body = b'{"inputs": "hello"}\n' * 100
        task = asyncio.create_task(post(server, body))
        dispatcher = server.app.state.services.dispatcher
        await until(lambda: dispatcher.num_rows == 5)
        await asyncio.sleep(0.02)
        assert dispatcher.num_rows == 5
        server.engine.go.set()
        assert len(lines_of(await task)) == 100


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """The app behind a real socket; its lifespan is the fixture's."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none", http="httptools")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


HEAD = (
    b"POST /v1/intent/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jsonl\r\nConnection: close\r\n"
)


async def test_a_client_that_reads_only_after_sending_all(ready: Any) -> None:
    """The answers are far more than the socket's buffers hold: the server must not wait for a reader."""
    line = json.dumps({"id": "x" * 2000, "inputs": "hello"}).encode() + b"\n"
    body = line * 8000
    async with listening(ready.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for first in range(0, len(body), 1 << 20):
            writer.write(body[first : first + (1 << 20)])
            await asyncio.wait_for(writer.drain(), PATIENCE_S)
        answer = await asyncio.wait_for(reader.read(-1), PATIENCE_S)
        writer.close()
        await writer.wait_closed()
    text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", answer)  # without the borders of HTTP's chunks
    assert text.count(b'"output"') == 8000


async def test_a_client_that_leaves_has_its_rows_cancelled(ready: Any, until: Any) -> None:
    async with listening(ready.app) as port:
        ready.engine.go.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"inputs": "hello"}\n' * 3
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        dispatcher = ready.app.state.services.dispatcher
        await until(lambda: dispatcher.num_rows == 3)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not dispatcher.num_rows)
        assert len(ready.engine.cancelled) == 3
        assert dispatcher.num_tokens == 0
        ready.engine.go.set()


async def test_a_single_request_that_leaves_is_cancelled(ready: Any, until: Any) -> None:
    async with listening(ready.app) as port:
        ready.engine.go.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"inputs": "hello"}'
        head = HEAD.replace(b"jsonl", b"json")
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        dispatcher = ready.app.state.services.dispatcher
        await until(lambda: dispatcher.num_rows == 1)
        writer.close()
        await writer.wait_closed()
        await until(lambda: not dispatcher.num_rows)
        ready.engine.go.set()
    assert (await ready.predict("intent", "hello")).status_code == 200


async def test_a_bulk_answer_holds_its_version_to_the_end(ready: Any, until: Any) -> None:
    holds = ready.app.state.services.predictor.holds
    ready.engine.go.clear()
    task = asyncio.create_task(post(ready, b'{"inputs": "hello"}'))
    await until(lambda: len(holds.blobs()) == 2)
    ready.engine.go.set()
    await task
    assert holds.blobs() == set()


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"b\nc"], [b"ab", b"c"]),
        ([b"aaaaaa\nb"], [None, b"b"]),
        ([b"aaa", b"aaa", b"aaa\nb\n"], [None, b"b"]),
        ([b"aaaaaaa"], [None]),
        ([b"\n \n\na"], [b"a"]),
    ],
)
async def test_split_lines(chunks: list[bytes], lines: list[bytes | None]) -> None:
    seen = [line async for batch in split_lines(chunks_of(*chunks), 5) for line in batch]
    assert seen == [Line(index, text) for index, text in enumerate(lines)]


async def test_outbox_spills_to_disk_and_keeps_the_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, 10 * MEMORY_BYTES)
    sent = bytes(range(256)) * (MEMORY_BYTES // 100)
    for first in range(0, len(sent), 9999):
        await outbox.put(sent[first : first + 9999])
    outbox.end()
    received = b""
    while data := await outbox.take():
        received += data
    outbox.close()
    assert received == sent
