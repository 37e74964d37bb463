"""Run by test_ray.py in a process of its own: two replicas under Ray Serve, asked all the time, one of them killed.

Arguments: the HTTP port, the file for the report, the names of the adapters. Settings come from the environment.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import psutil
import ray
from ray import serve

import serve_app
from serve_process import is_alive, words_of

LIMIT_S = 150.0
TOLD_S = 5.0  # until the door has heard from a replica which adapters it has
PROCESS = "ray::ServeReplica:prefixrack:Replica"
TEXT = "ada was born in london by the river"


class Callers:
    """Ask one adapter each, over and over; note what came."""

    def __init__(self, base_url: str, names: list[str]) -> None:
        self._base_url = base_url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for name in names]
        self.statuses: Counter[int] = Counter()
        self.outputs: dict[str, list[Any]] = {name: [] for name in names}
        self.replicas: dict[str, list[str]] = {name: [] for name in names}

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def seen(self) -> set[str]:
        return {replica for replicas in self.replicas.values() for replica in list(replicas)}

    def _ask(self, name: str) -> None:
        with httpx2.Client(base_url=self._base_url, timeout=60) as client:
            while not self._is_over.is_set():
                answer = client.post(f"/v1/{name}/predict", json={"inputs": TEXT})
                self.statuses[answer.status_code] += 1
                self.replicas[name].append(answer.headers.get("x-replica", ""))
                output = answer.json()["outputs"][0] if answer.is_success else answer.text
                if output not in self.outputs[name]:
                    self.outputs[name].append(output)
                time.sleep(0.02)


def until(is_so: Any) -> bool:
    give_up_at = time.monotonic() + LIMIT_S
    while not is_so():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.1)
    return True


def anyones_replica(port: int) -> str:
    """Who answers what is about no adapter: an adapter's requests stay with the replica that has it."""
    return httpx2.get(f"http://127.0.0.1:{port}/health/live", timeout=60).headers.get("x-replica", "")


def asked_alone(port: int, name: str) -> list[str]:
    """Which replicas answer for an adapter that one of them had to answer for before."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        found = [client.post(f"/v1/{name}/predict", json={"inputs": TEXT}).headers["x-replica"]]
        time.sleep(TOLD_S)
        for _ in range(20):
            found.append(client.post(f"/v1/{name}/predict", json={"inputs": TEXT}).headers["x-replica"])
    return found


def replica_processes() -> list[psutil.Process]:
    """Ray starts and ends others meanwhile."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if is_alive(process) and PROCESS in " ".join(words_of(process))]


def live(port: int, names: list[str]) -> dict[str, Any]:
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(serve_app.build(serve_app.Options(num_replicas=2, num_cpus=1)), name="prefixrack")
    alone = asked_alone(port, names[0])
    with Callers(f"http://127.0.0.1:{port}", names) as callers:
        have_both = until(lambda: len(callers.seen()) == 2 and min(map(len, callers.replicas.values())) > 20)
        processes = replica_processes()
        processes[0].kill()
        is_replaced = until(lambda: len(callers.seen() | {anyones_replica(port)}) == 3)
    return {
        "have_both": have_both,
        "num_processes": len(processes),
        "is_replaced": is_replaced,
        "statuses": callers.statuses,
        "outputs": callers.outputs,
        "alone": alone,
    }


def main() -> None:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        report = live(int(sys.argv[1]), sys.argv[3:])
        Path(sys.argv[2]).write_text(json.dumps(report), encoding="utf-8")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
