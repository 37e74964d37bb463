"""The `prefixrack` command as a process of its own, on a free loopback port. Knows HTTP and signals, no app."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import httpx2
import psutil

PREFIXRACK = (sys.executable, "-c", "from prefixrack.cli.app import main; main()")
# A bound for what hangs; nothing waits that long otherwise.
TIMEOUT_S = 180.0
POLL_S = 0.05


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class ServeProcess:
    """A command that serves on `port`. It can be started again after it ended; each life has a log of its own."""

    def __init__(
        self,
        logs_folder: Path,
        command: str,
        *options: str,
        cwd: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._arguments = [*PREFIXRACK, command, "--port", str(self.port), *options]
        self._logs_folder = logs_folder
        self._cwd = cwd
        self._environment = {"COLUMNS": "1000", "NO_COLOR": "1", **environment}
        self._logs: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def output(self, life: int = -1) -> str:
        """What a life printed so far, on either stream; the newest one by default."""
        return self._logs[life].read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def start(self) -> None:
        """Returns when the server is ready."""
        self.begin()
        self._await_ready()

    def begin(self) -> None:
        """Returns at once."""
        assert not self.is_running, "it is running already"
        self._logs.append(self._logs_folder / f"life-{len(self._logs)}.log")
        environment = os.environ | self._environment
        with self._logs[-1].open("wb") as log:
            self._process = subprocess.Popen(
                self._arguments, cwd=self._cwd, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.base_url}/health/ready").is_success
        except httpx2.TransportError:
            return False

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "start() comes first"
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code; negative for a signal that ended it."""
        assert self._process is not None, "start() comes first"
        return self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        """kill -9, if it runs. Its parts end by themselves; until they have, they listen on the port."""
        parts = psutil.Process(self.pid).children() if self.is_running else []
        if self.is_running:
            self.send_signal(signal.SIGKILL)
        if self._process is not None:
            self.wait()
        wait_for(lambda: not any(map(is_alive, parts)))

    def _await_ready(self) -> None:
        wait_for(lambda: self.is_ready() or not self.is_running)
        assert self.is_running, f"the server did not start; it said: {self.output()[-4000:]}"


def is_alive(process: psutil.Process) -> bool:
    """What has ended may be there still, until somebody has asked for its exit code."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none where it ends just now."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_for(is_so: Callable[[], bool]) -> None:
    """Poll until something is so; the bound is for what never comes."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"it did not come about in {TIMEOUT_S} s"
        time.sleep(POLL_S)
