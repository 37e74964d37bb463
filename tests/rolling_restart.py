"""Two replicas behind haproxy, restarted one after the other under load: every request must be answered.

The replicas serve the same folder of bundles, each with a state folder of its own. Callers keep their connections to
the balancer and send nothing twice; the balancer tries a request again only where it could not connect.
"""

from __future__ import annotations

import csv
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx2

from prefixrack_adapters.spec import BackboneSpec
from serve_process import TIMEOUT_S, ServeProcess, free_port, wait_for
from tiny import write_backbone, write_random_bundle

PROBE_PERIOD_MS = 200
NUM_REPLICAS = 2
ADAPTER = "intent"
TEXT = "the cat sat"
CONFIGURATION = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout check 10s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch
frontend callers
    bind 127.0.0.1:{port}
    default_backend replicas
frontend statistics
    bind 127.0.0.1:{statistics_port}
    stats enable
    stats uri /
backend replicas
    option httpchk GET /health/ready
    default-server check inter {period}ms fall 1 rise 1
{servers}
"""


@dataclass(frozen=True)
class RestartPlan:
    """`drain_s` is what the replicas are started with: it covers the balancer's probe period."""

    callers: int = 8
    rounds: int = 1
    drain_s: float = 1.0
    calm_s: float = 1.0


@dataclass
class Tally:
    answers: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: str, seconds: float) -> None:
        with self.lock:
            self.answers[answer] += 1
            self.slowest_s = max(self.slowest_s, seconds)

    @property
    def num_answers(self) -> int:
        with self.lock:
            return self.answers.total()


def run_rolling_restart(plan: RestartPlan, folder: Path, haproxy: str) -> dict[str, Any]:
    """Restart each replica `rounds` times. What was answered, by status, and how long the longest took."""
    with fleet(plan, folder) as replicas, balancer(haproxy, replicas, folder) as front, load(plan, front.url) as tally:
        restart_s = restart_in_turn(plan, replicas, tally, front)
    return summary(tally, restart_s)


def restart_in_turn(plan: RestartPlan, replicas: list[ServeProcess], tally: Tally, front: Balancer) -> list[float]:
    """Returns how long each restart took, until the balancer sends requests there again."""
    restart_s = []
    for number, replica in list(enumerate(replicas)) * plan.rounds:
        time.sleep(plan.calm_s)
        started_at, num_before = time.monotonic(), tally.num_answers
        replica.send_signal(SIGTERM)
        exit_code = replica.wait()
        assert exit_code == 0, f"a replica ended with {exit_code}: {replica.output()[-2000:]}"
        replica.start()
        wait_for(lambda number=number: front.has(number))  # type: ignore[misc]  # before the other one goes
        restart_s.append(round(time.monotonic() - started_at, 2))
        assert tally.num_answers > num_before, "nothing was answered during the restart"
    return restart_s


def summary(tally: Tally, restart_s: list[float]) -> dict[str, Any]:
    answers = dict(tally.answers)
    return {
        "num_requests": tally.num_answers,
        "num_failed": tally.num_answers - answers.get("200", 0),
        "answers": answers,
        "slowest_s": round(tally.slowest_s, 3),
        "restart_s": restart_s,
    }


@contextmanager
def fleet(plan: RestartPlan, folder: Path) -> Iterator[list[ServeProcess]]:
    backbone = write_backbone(folder / "backbone")
    write_random_bundle(folder / "bundles" / ADAPTER, BackboneSpec.load(backbone), name=ADAPTER)
    environment = {"PREFIXRACK_HTTP__DRAIN_S": str(plan.drain_s)}
    with ExitStack() as stack:
        replicas = []
        for number in range(NUM_REPLICAS):
            (folder / f"logs-{number}").mkdir()
            paths = {"backbone": backbone, "state-dir": folder / f"state-{number}", "adapters": folder / "bundles"}
            options = (*(f"--{name}={path}" for name, path in paths.items()), "--auth=none", "--dtype=float32")
            replica = ServeProcess(folder / f"logs-{number}", "serve", *options, environment=environment)
            stack.callback(replica.kill)
            replica.begin()
            replicas.append(replica)
        wait_for(lambda: all(replica.is_ready() for replica in replicas))
        yield replicas


@dataclass(frozen=True)
class Balancer:
    port: int
    statistics_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def has(self, number: int) -> bool:
        """Whether it sends requests to this replica."""
        page = httpx2.get(f"http://127.0.0.1:{self.statistics_port}/;csv", timeout=TIMEOUT_S).raise_for_status().text
        status_of = {row["svname"]: row["status"] for row in csv.DictReader(page.removeprefix("# ").splitlines())}
        return status_of[f"replica{number}"] == "UP"


@contextmanager
def balancer(haproxy: str, replicas: list[ServeProcess], folder: Path) -> Iterator[Balancer]:
    front, path = Balancer(free_port(), free_port()), folder / "haproxy.cfg"
    servers = "\n".join(f"    server replica{number} 127.0.0.1:{each.port}" for number, each in enumerate(replicas))
    configuration = CONFIGURATION.format(
        port=front.port, statistics_port=front.statistics_port, period=PROBE_PERIOD_MS, servers=servers
    )
    path.write_text(configuration, encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([haproxy, "-db", "-f", str(path)], stdout=log, stderr=log)
        try:
            wait_for(lambda: _is_answered(front.url))
            yield front
        finally:
            process.kill()
            process.wait()


@contextmanager
def load(plan: RestartPlan, url: str, adapter: str = ADAPTER) -> Iterator[Tally]:
    tally, is_over = Tally(), threading.Event()

    def call() -> None:
        with httpx2.Client(base_url=url, timeout=TIMEOUT_S) as http:
            while not is_over.is_set():
                started_at = time.monotonic()
                try:
                    answer = _name(http.post(f"/v1/{adapter}/predict", json={"inputs": TEXT}))
                except httpx2.TransportError as error:
                    answer = type(error).__name__
                tally.note(answer, time.monotonic() - started_at)

    callers = [threading.Thread(target=call) for _ in range(plan.callers)]
    for caller in callers:
        caller.start()
    try:
        yield tally
    finally:
        is_over.set()
        for caller in callers:
            caller.join()


def _name(answer: httpx2.Response) -> str:
    """The status, and whose it is where it is not 200."""
    if answer.is_success:
        return str(answer.status_code)
    is_ours = answer.headers.get("content-type") == "application/problem+json"
    return f"{answer.status_code} {answer.json()['code'] if is_ours else 'of the balancer'}"


def _is_answered(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health/ready").is_success
    except httpx2.TransportError:
        return False
