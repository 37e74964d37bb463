"""A command that serves until Ctrl-C: it is started, and the shell is told when it answers. Knows no command."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import httpx2

from docs_commands import WrongCommand
from serve_process import free_port

# Where the shell looks: see docs_shell.py.
SERVING_FILE = "DOCS_SERVING"
POLL_S = 0.05
USUAL_PORT = "8000"


def serve(command: Sequence[str], port: int, path: str, environment: Mapping[str, str] = MappingProxyType({})) -> int:
    """Its exit code, which there is when somebody has ended it; 1 where it never answered at that path.

    Raises WrongCommand for a block's second one: a reader never comes to it, for the first keeps the terminal.
    """
    if Path(os.environ[SERVING_FILE]).exists():
        raise WrongCommand("a command before it in this block serves until Ctrl-C: give each server a block of its own")
    base_url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, env=os.environ | environment)
    while not _answers(base_url + path):
        if process.poll() is not None:
            return process.returncode or 1
        time.sleep(POLL_S)
    _tell({"pid": process.pid, "base_url": base_url})
    return process.wait()


def on_a_free_port(arguments: Sequence[str]) -> tuple[list[str], int]:
    """The port that everybody has, or none, becomes one that nobody has."""
    if "--port" not in arguments:
        arguments = [*arguments, "--port", USUAL_PORT]
    place = arguments.index("--port") + 1
    port = free_port()
    return [*arguments[:place], str(port), *arguments[place + 1 :]], port


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=60).is_success
    except httpx2.TransportError:
        return False


def _tell(facts: Mapping[str, object]) -> None:
    """In one step: whoever reads finds all or nothing."""
    path = Path(os.environ[SERVING_FILE])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.rename(path)
