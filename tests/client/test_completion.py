"""Completion in a real bash, zsh and fish: commands, names, and aliases, in bash with the setting of the README."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pexpect
import pytest

from real_parts import program
from serve_process import wait_for

README = Path(__file__).parents[2] / "client" / "README.md"
TIMEOUT_S = 300  # a completion starts a Python each time, which takes long where other work fills the cores
SETTING = re.compile(r"`(COMP_WORDBREAKS=[^`]+)`")


@pytest.fixture
def rack(wire: Any) -> Iterator[tuple[str, list[str]]]:
    """A server that lists two adapters, and the paths of what was asked about one of them."""
    page = {"data": [wire.summary("intent"), wire.summary("nli")], "next_cursor": None}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if path != "/v1/adapters":
                asked.append(path)
            body = json.dumps(page if path == "/v1/adapters" else wire.detail().json()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_given: object) -> None:
            """Nothing: tests have nobody to tell."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def environment_in(folder: Path, base_url: str) -> dict[str, str]:
    """One with the command in it, and with the folder as its home."""
    command = folder / "prefixrack"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from prefixrack.cli.app import main; main()" "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join((str(folder), os.environ["PATH"]))
    return os.environ | {"PATH": path, "HOME": str(folder), "PREFIXRACK_BASE_URL": base_url, "COLUMNS": "80"}


def typed_in_bash(environment: dict[str, str], keys: str) -> str:
    """What a terminal shows that has these keys pressed. `\\t` completes; the last line must leave the shell."""
    bash = [program("bash", "apt-get install bash"), "--norc", "--noprofile", "-i"]
    terminal, far_end = pty.openpty()
    with subprocess.Popen(
        bash,
        stdin=far_end,
        stdout=far_end,
        stderr=far_end,
        env=environment | {"TERM": "dumb"},
        start_new_session=True,
    ) as shell:
        os.close(far_end)
        os.write(terminal, keys.encode())
        shown = b"".join(iter(lambda: _read(terminal), b""))
        shell.wait()
    os.close(terminal)
    return shown.decode(errors="replace")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux' way to say that the other end is closed
        return b""


def test_bash_completes_commands_names_and_aliases(tmp_path: Path, rack: tuple[str, list[str]]) -> None:
    base_url, asked = rack
    setting = SETTING.search(README.read_text(encoding="utf-8"))
    assert setting is not None
    keys = [
        "source <(prefixrack --show-completion)",
        "prefixrack sho\t int\t",
        setting[1],
        "prefixrack show intent@lat\t",
        "exit",
    ]
    shown = typed_in_bash(environment_in(tmp_path, base_url), "".join(f"{line}\n" for line in keys))
    assert asked == ["/v1/adapters/intent", "/v1/adapters/intent@latest"], shown


def takes_keys(terminal: pexpect.spawn[str]) -> bool:
    """Whether the shell's editor has them: before, the kernel gathers a line, and deletes it at the key that does."""
    (_, _, _, modes, *_) = termios.tcgetattr(terminal.fileno())
    return not modes & termios.ICANON


@contextmanager
def interactive(shell: str, environment: dict[str, str]) -> Iterator[pexpect.spawn[str]]:
    """It is ready for keys."""
    command = program(shell, f"apt-get install {shell}")
    terminal = pexpect.spawn(
        command, ["-i"], env=environment | {"TERM": "xterm"}, encoding="utf-8", timeout=TIMEOUT_S, dimensions=(40, 100)
    )
    try:
        terminal.sendline("echo re''ady")
        terminal.expect("ready")
        wait_for(lambda: takes_keys(terminal))
        yield terminal
    finally:
        terminal.close(force=True)


# At the first key zsh only loads what was installed; from the second on it completes.
@pytest.mark.parametrize(("shell", "first"), [("zsh", "prefixrack sho\t\x15"), ("fish", "")])
def test_what_is_installed_completes_commands_names_aliases_and_values(
    tmp_path: Path, rack: tuple[str, list[str]], shell: str, first: str
) -> None:
    base_url, asked = rack
    (tmp_path / ".zshrc").touch()  # without one, zsh asks what should stand in it
    environment = environment_in(tmp_path, base_url)
    with interactive(shell, environment) as terminal:
        terminal.sendline("prefixrack --install-completion")
        terminal.expect(f"{shell} completion installed")
    with interactive(shell, environment) as terminal:
        terminal.send(first)
        for keys, completed in (
            ("playg", "round"),
            ("show --js", "on"),
            ("show int", "ent"),
            ("show intent@lat", "est"),
        ):
            terminal.send(f"prefixrack {keys}\t")
            terminal.expect_exact(completed)
            terminal.send("\x15")
        terminal.send("prefixrack show nl\t\r")
        terminal.expect("nli")
        terminal.sendline("exit")
        terminal.expect(pexpect.EOF)
    assert asked == ["/v1/adapters/nli"]
