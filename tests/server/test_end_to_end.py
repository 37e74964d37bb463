"""`prefixrack serve` as a command: what it answers, what it keeps through kill -9, how it ends.

All of it twice: in one process, and with two front ends and an engine in processes of their own. One state folder for
all tests. Its first life ends in the middle of uploads; the tests see the second.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import httpx2
import pytest

from prefixrack import APIConnectionError, Client, NotFoundError
from prefixrack.bundles import Upload
from prefixrack.types import AnyOutput, PredictResponse
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from serve_process import TIMEOUT_S, ServeProcess, wait_for
from specimens import PROBES, Specimen, is_close, make_specimens
from tiny import WORDS, write_backbone, write_random_bundle

KEY_PATTERN = re.compile(r"pr_[0-9a-f]+_[\w-]{43}")
NUM_ACKNOWLEDGED = 5
SETTINGS = {"PREFIXRACK_HTTP__STALL_TIMEOUT_S": "600"}  # an upload stalls until the server is killed
BUNDLES: dict[str, dict[str, Any]] = {
    "intent": {"task": "text-classification", "labels": ("no", "maybe", "yes")},
    "names": {"task": "token-classification", "labels": ("O", "B-X", "B-Y", "I-X")},
    "facts": {"task": "question-answering"},
    "copa": {"task": "multiple-choice"},
}
INPUTS: dict[str, Any] = {
    "intent": {"text": "the cat sat", "text_pair": "on the mat"},
    "names": "ada was born in london",
    "facts": {"question": "who was born", "context": "ada was born in paris by the river"},
    "copa": {"text": "rain came", "choices": ["the cat sat", "the dog", "a street"]},
}
TEXTS = (
    "ada 👩🏽‍🚀 in 東京 was e\u0301te\u0301 \U0001f1eb\U0001f1f7 where",
    "नमस्ते paris کتاب 🧑‍🤝‍🧑 the cat",
    "o\u0308l 京 \U00020bb7野家 in london \u200d of",
)


@dataclass
class World:
    """The state folder with its server, and what happened in the server's first life."""

    process: ServeProcess
    backbone: Backbone
    folder: Path
    specimens: list[Specimen]
    key: str = ""
    acknowledged: dict[int, Specimen] = field(default_factory=dict)
    num_spooled_at_kill: int = 0

    @property
    def spool(self) -> list[Path]:
        return [path for path in (self.folder / "state" / "spool").rglob("*") if path.is_file()]

    def client(self) -> Client:
        return Client(self.process.base_url, self.key, max_retries=0)

    def post(self, ref: str, body: Any) -> tuple[int, dict[str, Any]]:
        """What curl does: one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.process.port, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", f"/v1/{ref}/predict", json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def output(self, ref: str, value: Any, **parameters: Any) -> AnyOutput:
        status, body = self.post(ref, {"inputs": value, "parameters": parameters})
        assert status == 200, body
        (output,) = PredictResponse.model_validate(body).outputs
        return output


@pytest.fixture(scope="module", params=[(), ("--http-workers=2",)], ids=["one-process", "two-front-ends"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    backbone = Backbone.load(write_backbone(folder / "backbone"), device="cpu")
    for name, options in BUNDLES.items():
        write_random_bundle(folder / "bundles" / name, backbone.spec, name=name, **options)
    paths = {"backbone": folder / "backbone", "state-dir": folder / "state", "adapters": folder / "bundles"}
    arguments = [f"--{option}={path}" for option, path in paths.items()]
    process = ServeProcess(
        folder, "serve", "--dtype=float32", *arguments, *request.param, environment=SETTINGS
    )  # compared to the last bits
    world = World(process, backbone, folder, make_specimens(backbone, folder / "specimens", 40))
    try:
        live_first_life(world)
        yield world
    finally:
        process.kill()


@pytest.fixture
def server(world: World) -> World:
    """The world with its server running; the first test that asks starts the second life."""
    if not world.process.is_running:
        world.process.start()
    return world


def live_first_life(world: World) -> None:
    """Upload one version after another, and begin one upload that never ends; then kill -9."""
    world.process.start()
    world.key = KEY_PATTERN.findall(world.process.output())[0]
    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", world.process.port)) as half:
        send_half_upload(half, world)
        uploads = pool.submit(upload_until_cut_off, world)
        wait_for(lambda: len(world.acknowledged) >= NUM_ACKNOWLEDGED or uploads.done())
        world.num_spooled_at_kill = len(world.spool)
        world.process.kill()
        uploads.result()


def upload_until_cut_off(world: World) -> None:
    with world.client() as client:
        for specimen in world.specimens:
            try:
                version = client.push("durable", specimen.folder).version
            except APIConnectionError:
                return
            world.acknowledged[version] = specimen


def send_half_upload(connection: socket.socket, world: World) -> None:
    """Half of a bundle's bytes; returns when the server has begun to spool them: so few stay in memory, in the file is
    nothing yet."""
    upload = Upload(world.specimens[0].folder)
    body = b"".join(upload.chunks())
    head = (
        f"POST /admin/v1/adapters/half/versions HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {world.key}\r\n"
        f"Content-Type: {upload.content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    tensors_at = body.index(b'name="tensors"')
    connection.sendall(head.encode() + body[: (tensors_at + len(body)) // 2])
    wait_for(lambda: any(world.spool))


def test_the_admin_key_is_printed_once_and_goes_on_working(server: World) -> None:
    assert set(KEY_PATTERN.findall(server.process.output(0))) == {server.key}
    assert server.process.output(0).count("shown this once") == 1
    assert not KEY_PATTERN.findall(server.process.output())
    with server.client() as client:
        assert len(list(client.list_keys())) == 1
    anonymous = httpx2.post(
        f"{server.process.base_url}/v1/intent/predict", json={"inputs": "the cat"}, timeout=TIMEOUT_S
    )
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "missing_key")


def test_acknowledged_versions_survive_a_kill(server: World) -> None:
    assert len(server.acknowledged) >= NUM_ACKNOWLEDGED
    with server.client() as client:
        listed = {version.version: version.digest for version in client.list_versions("durable")}
        answers = {number: client.predict(f"durable@{number}", list(PROBES), logits=True) for number in listed}
    acknowledged = {number: specimen.digest for number, specimen in server.acknowledged.items()}
    assert listed.items() >= acknowledged.items()
    assert len(listed) <= len(acknowledged) + 1  # one may have been finished and not acknowledged any more
    specimen_of = {specimen.digest: specimen for specimen in server.specimens}
    for number, answer in answers.items():
        assert answer.adapter.digest == listed[number]
        check_solo(answer, specimen_of[listed[number]])


def test_a_half_upload_leaves_nothing(server: World) -> None:
    assert server.num_spooled_at_kill >= 1
    assert server.spool == []
    with server.client() as client, pytest.raises(NotFoundError) as caught:
        client.get_adapter("half")
    assert caught.value.code == "adapter_not_found"


@pytest.mark.parametrize("name", BUNDLES)
def test_answers_are_those_of_the_library(server: World, name: str) -> None:
    status, body = server.post(name, {"inputs": INPUTS[name]})
    assert status == 200, body
    assert set(body) == {"id", "adapter", "task", "outputs", "usage", "timings_ms"}
    adapter = Adapter.load(server.folder / "bundles" / name)
    assert body["adapter"] == {"name": name, "version": 1, "digest": adapter.digest}
    assert body["task"] == BUNDLES[name]["task"]
    (expected,) = server.backbone.predict(adapter, [INPUTS[name]])
    assert is_close(PredictResponse.model_validate(body).outputs[0].model_dump(), expected.model_dump())


def test_spans_are_where_their_offsets_say(server: World) -> None:
    num_spans = 0
    for text in TEXTS:
        units = {unit: server.output("names", text, offset_unit=unit) for unit in ("codepoint", "utf16", "byte")}
        in_utf16, in_bytes = text.encode("utf-16-le"), text.encode()
        for span in units["codepoint"].spans:  # type: ignore[union-attr]
            assert text[span.start : span.end] == span.text
            num_spans += 1
        for span in units["utf16"].spans:  # type: ignore[union-attr]
            assert in_utf16[2 * span.start : 2 * span.end].decode("utf-16-le") == span.text
        for span in units["byte"].spans:  # type: ignore[union-attr]
            assert in_bytes[span.start : span.end].decode() == span.text
    assert num_spans > len(TEXTS)


def test_a_long_context_is_answered_through_windows(server: World) -> None:
    question = {"question": "who was born", "context": " ".join(Random(0).choices(WORDS, k=3000))}
    output: Any = server.output("facts", question)
    assert output.windows > 1
    for answer in [output.answer, *output.answers]:
        assert question["context"][answer.start : answer.end] == answer.text
    (expected,) = server.backbone.predict(Adapter.load(server.folder / "bundles" / "facts"), [question])
    assert is_close(output.model_dump(), expected.model_dump())


def test_a_new_version_is_served_at_once_while_requests_run(server: World) -> None:
    first, second = server.specimens[-2:]
    pushed, started = Event(), [Event() for _ in range(8)]

    def ask_until_second(has_started: Event) -> int:
        """How many answers of the first version came before."""
        with server.client() as client:
            for count in range(100_000):
                must_be_second = pushed.is_set()
                answer = client.predict("moving", list(PROBES), logits=True)
                check_solo(answer, {1: first, 2: second}[answer.adapter.version])
                assert answer.adapter.version == 2 or not must_be_second
                if answer.adapter.version == 2:
                    return count
                has_started.set()
        raise AssertionError("the second version never came")

    with server.client() as client, ThreadPoolExecutor(len(started)) as pool:
        client.push("moving", first.folder)
        callers = [pool.submit(ask_until_second, event) for event in started]
        wait_for(lambda: all(event.is_set() for event in started) or any(caller.done() for caller in callers))
        assert client.push("moving", second.folder).version == 2
        pushed.set()
        assert all(caller.result() >= 1 for caller in callers)


def predictions(server: World, counter: str) -> float:
    """How many the server says it has answered."""
    metrics = httpx2.get(f"{server.process.base_url}/metrics", timeout=TIMEOUT_S).text
    counted = [line for line in metrics.splitlines() if line.startswith(counter)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counted)


@pytest.mark.parametrize(
    "counter",
    [
        'prefixrack_http_requests_total{method="POST",route="/v1/{ref}/pre',
        'prefixrack_adapter_requests_total{adapter="intent",outcome="ok"',
        'prefixrack_tenant_requests_total{outcome="ok",tenant="default"',
    ],
)
def test_requests_are_counted_whoever_answers_them(server: World, counter: str) -> None:
    before = predictions(server, counter)
    for _ in range(8):
        server.output("intent", "the cat")
    assert [predictions(server, counter) for _ in range(8)] == [before + 8] * 8


def test_health_metrics_and_description(server: World) -> None:
    server.output("intent", "the cat")
    with httpx2.Client(base_url=server.process.base_url, timeout=TIMEOUT_S) as http:
        assert http.get("/health/live").json() == {"live": True}
        assert http.get("/health/ready").json() == {"ready": True, "registry": True}
        metrics = http.get("/metrics")
        document = http.get("/openapi.json").json()
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    assert float(values["prefixrack_engine_ready"]) == 1
    assert float(values["prefixrack_rows_total"]) > 0
    assert float(values["prefixrack_pack_tokens_count"]) == float(values["prefixrack_packs_total"]) > 0
    assert float(values["prefixrack_queue_seconds_count"]) == float(values["prefixrack_rows_total"])
    assert float(values["prefixrack_resident_adapters"]) > 0
    assert document["openapi"].startswith("3.")
    assert {"/v1/{ref}/predict", "/admin/v1/adapters/{name}/versions"} <= set(document["paths"])


def start_bulk(connection: socket.socket, server: World) -> None:
    """A bulk request whose first line is sent and whose body is not yet over."""
    head = (
        f"POST /v1/intent/predict HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {server.key}\r\n"
        "Content-Type: application/jsonl\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.sendall(head.encode() + chunk(b'{"inputs": "the cat"}\n'))


def test_sigterm_finishes_what_is_in_flight(server: World) -> None:
    with socket.create_connection(("127.0.0.1", server.process.port)) as connection:
        connection.settimeout(TIMEOUT_S)
        start_bulk(connection, server)
        answer = receive_until(connection, b'"index":0')
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.process.is_ready())
        connection.sendall(chunk(b'{"inputs": "the dog"}\n') + chunk(b""))
        answer += receive_until(connection, b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b'"output"') == 2
    assert server.process.wait() == 0


def test_ctrl_c_twice_ends_at_once_and_without_a_traceback(server: World) -> None:
    with socket.create_connection(("127.0.0.1", server.process.port)) as connection:
        connection.settimeout(TIMEOUT_S)
        start_bulk(connection, server)
        receive_until(connection, b'"index":0')  # and the rest of the body never comes
        server.process.send_signal(signal.SIGINT)
        wait_for(lambda: not server.process.is_ready())
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait() == 0
    assert "Traceback" not in server.process.output()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def receive_until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        part = connection.recv(65536)
        assert part, f"the connection ended after {received!r}"
        received += part
    return received


def check_solo(answer: PredictResponse, specimen: Specimen) -> None:
    assert answer.adapter.digest == specimen.digest
    for output, expected in zip(answer.outputs, specimen.answers, strict=True):
        assert is_close(output.model_dump(), expected)
