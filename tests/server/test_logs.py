"""Logging: one form for all lines, each with its request's id, and nothing of an input whatever goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from prefixrack_server.logs import set_up_logging
from prefixrack_server.messages import RowFailure
from prefixrack_server.tokenise import Tokeniser

SECRET = "hello good world bad"
URL = "/v1/intent/predict"


@pytest.fixture
def logging_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    before = structlog.get_config()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_in_a_file_is_plain(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Colours are for terminals."""
    set_up_logging("info", log_format)
    logging.getLogger("other").warning("seen %s", 7)
    line = capsys.readouterr().err
    assert "\x1b" not in line
    assert "seen 7" in line
    if log_format == "json":
        assert json.loads(line)["level"] == "warning"


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_name_with_line_ends_makes_no_line_of_its_own(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Log injection: what callers can choose is one string in one line."""
    set_up_logging("info", log_format)
    path = '/v1/a\n{"event": "a key was revoked", "level": "info"}\r\n\x1b[2J'
    structlog.stdlib.get_logger("x").error("failed", path=path)
    logging.getLogger("y").error("failed", extra={"path": path})
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 2
    assert all("failed" in line for line in written.splitlines())
    assert "\x1b" not in written


@pytest.fixture
async def failing(server: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch, logging_restored: None) -> Any:
    """A server in which something fails as a library would: with the input in the exception's message."""
    await server.upload(bundles("intent"))

    async def refuse(_: Any, __: Any, inputs: Any, *___: Any) -> None:
        try:
            raise KeyError(f"no token for {inputs}")
        except KeyError as error:
            raise ValueError(f"cannot read {inputs!r}") from error

    monkeypatch.setattr(Tokeniser, "prepare", refuse)
    return server


async def ask(server: Any) -> Any:
    return await server.client.post(URL, json={"inputs": SECRET}, headers={"x-request-id": "r-17"})


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]


async def test_a_failure_has_its_request_and_its_place(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info", "json")
    assert (await ask(failing)).status_code == 500
    (line,) = [line for line in lines(capsys) if line["level"] == "error"]
    assert line["request_id"] == "r-17"
    assert "builtins.ValueError" in line["exception"]
    assert "builtins.KeyError" in line["exception"]
    assert "test_logs.py" in line["exception"]
    assert SECRET not in json.dumps(line)


async def test_who_asks_for_debugging_sees_messages(failing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("debug", "json")
    await ask(failing)
    assert any(SECRET in line.get("exception", "") for line in lines(capsys))


BODIES: dict[str, bytes] = {
    "fine": json.dumps({"inputs": SECRET}).encode(),
    "cut short": f'{{"inputs": "{SECRET}'.encode(),
    "of another shape": json.dumps({"inputs": SECRET, SECRET: SECRET}).encode(),
    "with a wrong parameter": json.dumps({"inputs": SECRET, "parameters": {SECRET: SECRET}}).encode(),
    "with a wrong input": json.dumps({"inputs": [{"text": SECRET, SECRET: 1}]}).encode(),
    "too long": json.dumps({"inputs": f"{SECRET} " * 100}).encode(),
    "not to be encoded": b'{"inputs": "hello good world bad \\ud800"}',
}


@pytest.mark.usefixtures("logging_restored")
@pytest.mark.parametrize("media_type", ["application/json", "application/jsonl"])
@pytest.mark.parametrize("trouble", ["none", "engine", "output"])
async def test_no_log_line_has_anything_of_an_input(
    server: Any,
    bundles: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    media_type: str,
    trouble: str,
) -> None:
    """On any stream, at the usual level, in text as in JSON form."""
    bundle = bundles("intent")
    await server.upload(bundle)
    if trouble == "engine":
        server.engine.failures[bundle.digest] = RowFailure("internal_error", "it broke")
    if trouble == "output":
        task = server.app.state.services.predictor.task(await server.registry.resolve("default", "intent"))

        def fail(*_: Any) -> None:
            raise ValueError(f"cannot decode {SECRET!r}")

        monkeypatch.setattr(type(task), "finish", fail)
    for log_format in ("json", "text"):
        set_up_logging("info", log_format)
        for body in BODIES.values():
            headers = {"content-type": media_type, "x-request-id": "r-17"}
            await server.client.post(URL, content=body + b"\n", headers=headers)
    written = "".join(capfd.readouterr())
    assert SECRET not in written
    if trouble == "output":
        assert "an output could not be made" in written, "this trouble is logged"
