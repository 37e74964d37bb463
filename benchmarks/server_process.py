"""A real server in processes of its own, and `wrk` as its load, or `closed_loop.py` in its place. Knows HTTP only."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from closed_loop import KEY_VARIABLE

START_TIMEOUT_S = 600.0
ANSWER_TIMEOUT_S = 60.0
NO_KEY = "none"  # of a server without keys
CLOSED_LOOP = Path(__file__).with_name("closed_loop.py")
CORES_FOR_CLOSED_LOOP = 8  # with fewer it would take what it measures
SERVE = "import typer; from prefixrack_server.commands import serve; typer.run(serve)"
LUA = """
local requests, turn = {}, 0
init = function(args)
  local headers = {["Content-Type"] = "application/json", ["X-API-Key"] = "@KEY@"}
  for line in io.lines("@REQUESTS@") do
    local path, body = line:match("^(%S+) (.*)$")
    requests[#requests + 1] = wrk.format("POST", path, headers, body)
  end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"num_requests":%d,"duration_us":%d,"mean_us":%.1f,"p50_us":%d,"p99_us":%d,"num_failures":%d}\\n',
    summary.requests, summary.duration, latency.mean, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What the load saw, what it took itself, and what the server's HTTP part took.

    `rows_per_s` counts a connection's time up to its last answer: as many connections as there are, divided by the mean
    latency, since each has one request on its way at any time. To divide the answers by the whole duration would leave
    out the pack that is being computed when the time is up, which of a slow backbone is a fifth of a slice's rows.
    """

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    num_requests: int
    load_cpu_s: float
    http_cpu_s: float
    duration_s: float


@dataclass(frozen=True)
class Server:
    port: int
    pid: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def predict(self, adapter: str, text: str) -> list[float]:
        """The logits of one text."""
        body = {"inputs": text, "parameters": {"logits": True}}
        response = httpx2.post(f"{self.base_url}{path_of(adapter)}", json=body, timeout=ANSWER_TIMEOUT_S)
        response.raise_for_status()
        logits: list[float] = response.json()["outputs"][0]["logits"]
        return logits

    def rss_bytes(self) -> int:
        return rss_bytes(self.pid)

    def cpu_s(self) -> float:
        """CPU time so far, of the engine's and the front-end processes too."""
        return sum(cpu_s(f"{pid}") for pid in (self.pid, *children_of(self.pid)))

    def http_cpu_s(self) -> float:
        """CPU time so far of the front-end processes, or of the event loop's thread in a server of one process."""
        front_ends = [pid for pid in children_of(self.pid) if "front-end" in command_line(pid)]
        return sum(cpu_s(f"{pid}") for pid in front_ends) if front_ends else cpu_s(f"{self.pid}/task/{self.pid}")


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def cpu_s(place: str) -> float:
    """User and system time of a process, "17", or of one of its threads, "17/task/18"."""
    fields = Path(f"/proc/{place}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


@contextmanager
def serving(
    backbone: Path,
    adapters: Path | None,
    work: Path,
    settings: Mapping[str, Any],
    *,
    state: Path | None = None,
    auth: str = "none",
) -> Iterator[Server]:
    """A server with the bundles in `adapters` registered. `settings` are names of the environment without prefix."""
    port = free_port()
    options = {"--backbone": backbone, "--port": port, "--auth": auth, "--log-level": "warning"}
    options |= {"--state-dir": state or work / "state"} | ({} if adapters is None else {"--adapters": adapters})
    command = [sys.executable, "-c", SERVE, *(str(part) for pair in options.items() for part in pair)]
    environment = os.environ | {f"PREFIXRACK_{name}": str(value) for name, value in settings.items()}
    log_path = work / f"server-{port}.log"
    with log_path.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield _await_ready(Server(port, process.pid), process, log_path)
        finally:
            process.terminate()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_ready(server: Server, process: subprocess.Popen[bytes], log_path: Path) -> Server:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < give_up_at:
        if _is_ready(server):
            return server
        time.sleep(0.05)
    raise SystemExit(f"the server did not start; it said: {log_path.read_text(errors='replace')[-2000:]}")


def _is_ready(server: Server) -> bool:
    try:
        return httpx2.get(f"{server.base_url}/health/ready").is_success
    except httpx2.TransportError:
        return False


def path_of(adapter: str) -> str:
    return f"/v1/{adapter}/predict"


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def load_program() -> str:
    """Which program `run_load` runs, as results name it."""
    return "wrk" if has_wrk() else CLOSED_LOOP.name


def check_load() -> None:
    if not has_wrk() and (os.cpu_count() or 1) < CORES_FOR_CLOSED_LOOP:
        raise SystemExit(
            "the program wrk, which loads servers, is not installed, and what stands in for it needs "
            f"{CORES_FOR_CLOSED_LOOP} cores: `apt-get install wrk`"
        )


def run_load(
    server: Server,
    requests: Sequence[tuple[str, str]],
    connections: int,
    duration_s: int,
    work: Path,
    key: str = NO_KEY,
) -> Load:
    """Send (adapter, text) pairs in turn, one row per request, over `connections` connections."""
    listing = work / "requests.txt"
    bodies = [f"{path_of(adapter)} {json.dumps({'inputs': text})}\n" for adapter, text in requests]
    listing.write_text("".join(bodies), encoding="utf-8")
    command_of = wrk_command if has_wrk() else closed_loop_command
    command = command_of(server, listing, connections, duration_s, key)
    load_before_s, http_before_s = children_cpu_s(), server.http_cpu_s()
    environment = os.environ | {KEY_VARIABLE: key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    load_cpu_s, http_cpu_s = children_cpu_s() - load_before_s, server.http_cpu_s() - http_before_s
    return read_result(done.stdout, connections, load_cpu_s, http_cpu_s)


def wrk_command(server: Server, listing: Path, connections: int, duration_s: int, key: str) -> list[str]:
    script = listing.with_name("load.lua")
    script.write_text(LUA.replace("@REQUESTS@", str(listing)).replace("@KEY@", key), encoding="utf-8")
    options = ["-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "30s", "-s", str(script)]
    return ["wrk", *options, server.base_url]


def closed_loop_command(server: Server, listing: Path, connections: int, duration_s: int, _key: str) -> list[str]:
    """The key is in the environment."""
    return [sys.executable, str(CLOSED_LOOP), str(server.port), str(connections), str(duration_s), str(listing)]


def read_result(output: str, connections: int, load_cpu_s: float, http_cpu_s: float) -> Load:
    """What a load program printed. Failed requests end the benchmark."""
    result = json.loads(next(line for line in output.splitlines() if line.startswith("RESULT")).removeprefix("RESULT"))
    if result["num_failures"]:
        raise SystemExit(f"{result['num_failures']} of {result['num_requests']} requests failed")
    duration_s, mean_s = result["duration_us"] / 1e6, result["mean_us"] / 1e6
    num_requests = result["num_requests"]
    p50_ms, p99_ms = result["p50_us"] / 1e3, result["p99_us"] / 1e3
    return Load(connections / mean_s, p50_ms, p99_ms, num_requests, load_cpu_s, http_cpu_s, duration_s)


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
