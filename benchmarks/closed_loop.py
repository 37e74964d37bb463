"""Closed-loop load where `wrk` is not installed: connections that each send the next request once they have an answer.

A program of its own, with a process for each few cores: `closed_loop.py PORT CONNECTIONS SECONDS REQUESTS`. REQUESTS is
a file of lines "PATH BODY"; the key is in the environment. Prints what the script for `wrk` prints. Knows HTTP only.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import numpy as np
import uvloop

from open_loop import message_of

KEY_VARIABLE = "CLOSED_LOOP_KEY"
CORES_PER_PROCESS = 4
PATIENCE_S = 30.0  # for the last answers


@dataclass
class Seen:
    """Of one process."""

    latencies_s: list[float] = field(default_factory=list)
    num_failures: int = 0


class Caller(asyncio.Protocol):
    """One connection, which begins at message number `turn`."""

    def __init__(self, messages: Sequence[bytes], turn: int, stop_at: float, seen: Seen) -> None:
        self._messages = messages
        self._turn = turn
        self._stop_at = stop_at
        self._seen = seen
        self._sent_at = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self.is_done = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own, which has no such base
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._seen.latencies_s.append(time.perf_counter() - self._sent_at)
        self._seen.num_failures += self._parser.get_status_code() >= 400
        self._parser = httptools.HttpResponseParser(self)
        if time.monotonic() < self._stop_at:
            self._send()
        else:
            self.is_done.set()
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_done.is_set():
            self._seen.num_failures += 1
            self.is_done.set()

    def _send(self) -> None:
        message = self._messages[self._turn % len(self._messages)]
        self._turn += 1
        self._sent_at = time.perf_counter()
        self._transport.write(message)


def run_share(port: int, messages: Sequence[bytes], turns: Sequence[int], stop_at: float) -> Seen:
    """Some of the connections, in this process: one for each turn to begin at."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(port, messages, turns, stop_at))


async def _run(port: int, messages: Sequence[bytes], turns: Sequence[int], stop_at: float) -> Seen:
    loop, seen = asyncio.get_running_loop(), Seen()
    callers = [Caller(messages, turn, stop_at, seen) for turn in turns]
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)  # type: ignore[misc]
    async with asyncio.timeout(stop_at - time.monotonic() + PATIENCE_S):
        await asyncio.gather(*(caller.is_done.wait() for caller in callers))
    return seen


def run_all(port: int, messages: Sequence[bytes], num_connections: int, seconds: float) -> dict[str, float]:
    """Every connection begins elsewhere among the messages, so that callers do not all ask the same."""
    num_processes = max(1, min(num_connections, len(os.sched_getaffinity(0)) // CORES_PER_PROCESS))
    turns = [index * len(messages) // num_connections for index in range(num_connections)]
    with multiprocessing.get_context("fork").Pool(num_processes) as pool:
        started_at = time.monotonic()
        stop_at = started_at + seconds
        seen = pool.starmap(
            run_share, [(port, messages, turns[k::num_processes], stop_at) for k in range(num_processes)]
        )
        ended_at = time.monotonic()
    latencies_us = 1e6 * np.concatenate([of_process.latencies_s for of_process in seen])
    p50_us, p99_us = np.percentile(latencies_us, [50, 99])
    return {
        "num_requests": len(latencies_us),
        "duration_us": int(1e6 * (ended_at - started_at)),
        "mean_us": float(latencies_us.mean()),
        "p50_us": int(p50_us),
        "p99_us": int(p99_us),
        "num_failures": sum(of_process.num_failures for of_process in seen),
    }


def read_messages(requests: Path, key: str) -> list[bytes]:
    lines = [line.partition(" ") for line in requests.read_text(encoding="utf-8").splitlines()]
    return [message_of("POST", path, body.encode(), x_api_key=key) for path, _, body in lines]


def main() -> None:
    port, num_connections, seconds, requests = sys.argv[1:]
    messages = read_messages(Path(requests), os.environ[KEY_VARIABLE])
    print("RESULT " + json.dumps(run_all(int(port), messages, int(num_connections), float(seconds))))


if __name__ == "__main__":
    main()
