"""A pytest plugin for the tests of programs that use Prefixrack: a real server, tiny, in a process of its own.

pytest finds it by itself where Prefixrack is installed. Nothing is started or imported before a test asks for one of
the fixtures; they need the extra `server`. Answers have the right form and are the same each time; they mean nothing.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from prefixrack.client import Client

SERVER_MODULE = "prefixrack_server.tiny_server"
NEEDED = ("torch", "fastapi", "prefixrack_server")
START_S = 180.0
STOP_S = 30.0
POLL_S = 0.05
SHOWN_CHARS = 2000


class TinyAdapter(NamedTuple):
    """What an adapter of the tiny server does; its weights are random, the same each time."""

    task: str
    labels: tuple[str, ...] = ()


class TinyServer(NamedTuple):
    """A running server. It asks for no key."""

    base_url: str
    adapters: Mapping[str, TinyAdapter]

    def client(self) -> Client:
        """A new client of it; the caller closes it."""
        from prefixrack.client import Client

        return Client(self.base_url, api_key=None)


@pytest.fixture(scope="session")
def prefixrack_adapters() -> Mapping[str, TinyAdapter]:
    """The adapters that the server has: one for each task. Define a fixture of this name to have others."""
    return {
        "sentiment": TinyAdapter("text-classification", ("negative", "positive")),
        "ner": TinyAdapter("token-classification", ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")),
        "qa": TinyAdapter("question-answering"),
        "choice": TinyAdapter("multiple-choice"),
        "embedding": TinyAdapter("text-embedding"),
    }


@pytest.fixture(scope="session")
def prefixrack_server(
    prefixrack_adapters: Mapping[str, TinyAdapter], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TinyServer]:
    """A server for all tests of the session, on a free port of the loopback interface."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.fail(f"a server needs {', '.join(missing)}: pip install 'prefixrack[server]'", pytrace=False)
    folder = tmp_path_factory.mktemp("prefixrack")
    log = folder / "server.log"
    port = _free_port()
    with log.open("wb") as sink:
        process = subprocess.Popen(_command(folder, port, prefixrack_adapters), stdout=sink, stderr=subprocess.STDOUT)
    try:
        server = TinyServer(f"http://127.0.0.1:{port}", prefixrack_adapters)
        _await_ready(server, process, log)
        yield server
    finally:
        _stop(process)


@pytest.fixture
def prefixrack_client(prefixrack_server: TinyServer) -> Iterator[Client]:
    """A client of the tiny server."""
    with prefixrack_server.client() as client:
        yield client


def _command(folder: Path, port: int, adapters: Mapping[str, TinyAdapter]) -> list[str]:
    wanted = json.dumps({name: adapter._asdict() for name, adapter in adapters.items()})
    return [sys.executable, "-m", SERVER_MODULE, str(folder), str(port), wanted]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_ready(server: TinyServer, process: subprocess.Popen[bytes], log: Path) -> None:
    from prefixrack.errors import APIConnectionError

    give_up_at = time.monotonic() + START_S
    with server.client() as client:
        while process.poll() is None and time.monotonic() < give_up_at:
            try:
                if client.health().ready:
                    return
            except APIConnectionError:
                pass
            time.sleep(POLL_S)
    said = log.read_text(encoding="utf-8", errors="replace")[-SHOWN_CHARS:]
    pytest.fail(f"the tiny server did not come up; it said: {said or 'nothing'}", pytrace=False)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
