"""A child process of the server, as the supervisor sees it. The other end is `tether.py`."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixrack.errors import PrefixrackError
from prefixrack_server.config import ConfigError
from prefixrack_server.tether import Job


class ChildEnded(PrefixrackError):
    """A part of the server has ended though nobody told it to."""


class ChildProcess:
    """Started with `start`; `ended` must be awaited in the end."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self.is_ready = False

    @classmethod
    async def start(cls, name: str, job: Job, folder: Path, environment: Mapping[str, str]) -> ChildProcess:
        """`folder` must be private: the job lies there until the child has read it."""
        path = folder / f"{name.replace(' ', '-')}.job"
        path.write_bytes(pickle.dumps(job))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "prefixrack_server.tether", str(path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | environment,
            process_group=0,  # a terminal's Ctrl-C is the supervisor's affair
        )
        return cls(name, process)

    async def ready(self) -> dict[str, Any]:
        """What the child says once its work has begun. Raises ConfigError with its reason, or ChildEnded."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildEnded(f"{self} ended while it started, with exit code {await self.ended()}: see the lines above")
        report = json.loads(line)
        if "refused" in report:
            raise ConfigError(report["refused"])
        self.is_ready = True
        facts: dict[str, Any] = report["ready"]
        return facts

    def tell(self, sig: signal.Signals) -> None:
        """Hand a signal on. A child that is not ready yet has nothing to finish: it is killed."""
        assert self._process.stdin is not None
        if self.is_ready:
            self._process.stdin.write(bytes([sig]))
        else:
            self.kill()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> int:
        """The exit code, once there is one; negative for a signal."""
        return await self._process.wait()

    def __str__(self) -> str:
        return f"{self.name} (process {self._process.pid})"
