"""docs/security.md: each threat's tests are there; and those that have no other place."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prefixrack_server import engine_wire

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## Threats")[2].partition("\n## ")[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("|")][2:]


def test_the_table_is_there() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_threat_has_tests(row: str) -> None:
    named = re.findall(r"`(\S+)::(\w+)`", row.strip("|").split(" | ")[-1])
    assert named
    for file, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.fixture
async def guarded(serving: Any) -> Any:
    async with serving(http={"auth": "keys"}) as server:
        yield server


async def admin_key(server: Any) -> str:
    made = await server.registry.create_key("default", ["admin"])
    assert made.secret is not None
    secret: str = made.secret
    return secret


async def ask(server: Any, key: str) -> Any:
    return await server.client.get("/v1/adapters", headers={"authorization": f"Bearer {key}"})


async def test_secrets_are_compared_by_digest_in_constant_time(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong about a secret, all of two digests is compared, and never a secret itself."""
    key = await admin_key(guarded)
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert (await ask(guarded, wrong)).status_code == 401
    assert (await ask(guarded, key)).status_code == 200
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in (wrong, key)]
    assert [set(pair) for pair in compared] == [{digests[0], digests[1]}, {digests[1]}]


async def test_an_unknown_id_and_a_wrong_secret_look_alike(guarded: Any) -> None:
    key = await admin_key(guarded)
    _, key_id, secret = key.split("_", 2)
    answers = []
    for wrong in (f"pr_{key_id}_{'A' * len(secret)}", f"pr_{'0' * len(key_id)}_{secret}"):
        answer = await ask(guarded, wrong)
        body = answer.json()
        body.pop("request_id")
        answers.append((answer.status_code, body))
    assert answers[0] == answers[1]
    assert answers[0][0] == 401


def test_the_engines_socket_reads_declared_types_alone() -> None:
    """A pickle, or a message with an object of another type in it, is no message."""
    for content in (pickle.dumps({"a": 1}), msgspec.msgpack.encode(["Submit", [{"__reduce__": "os.system"}]])):
        with pytest.raises(msgspec.DecodeError):
            msgspec.msgpack.decode(content, type=engine_wire.Submit)


EVIL = "x\r\nSet-Cookie: a=b\r\n\r\n<p>"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/v1/adapters", [(b"x-request-id", EVIL.encode())]),
        ("GET", "/v1/adapters", [(b"x-request-id", b"x\x00")]),
        ("POST", f"/v1/{EVIL}/predict", []),
        ("GET", f"/v1/adapters/{EVIL}", []),
        ("GET", f"/{EVIL}", []),
        ("PUT", f"/admin/v1/adapters/a/aliases/{EVIL}", [(b"if-match", EVIL.encode())]),
        ("POST", "/v1/a/predict", [(b"content-type", EVIL.encode())]),
        ("POST", "/v1/a/predict", [(b"x-request-timeout-ms", EVIL.encode())]),
        ("POST", "/admin/v1/adapters/a/versions", [(b"idempotency-key", EVIL.encode())]),
    ],
)
async def test_nothing_that_a_caller_sends_becomes_a_header(
    server: Any, method: str, path: str, headers: list[tuple[bytes, bytes]]
) -> None:
    """Past what HTTP servers and clients would refuse: the application alone."""
    sent = await exchange(server.app, method, path, [(b"host", b"localhost"), *headers])
    (start,) = (message for message in sent if message["type"] == "http.response.start")
    for name, value in start["headers"]:
        assert not re.search(rb"[\r\n\x00]", name + value)
        assert b"a=b" not in value


async def exchange(app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
