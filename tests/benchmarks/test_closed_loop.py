"""Closed-loop load: every connection waits for its answer, everything sent is counted, and what fails is told."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from server_process import CLOSED_LOOP, Server, check_load, load_program, read_result, run_load

REQUESTS = [("first", "a text"), ("second", "the cat sät"), ("broken", "no")]


@contextmanager
def answering(seen: Counter[tuple[str, str]], status_of: dict[str, int]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen[self.path, self.headers["x-api-key"]] += 1
            self.send_response(status_of.get(self.path, 200))
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Server(server.server_port, 1)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _without_wrk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Server, "http_cpu_s", lambda _: 0.0)


def test_what_stands_in_for_wrk_counts_every_answer_and_sends_all_requests(tmp_path: Path) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    with answering(seen, {}) as server:
        load = run_load(server, REQUESTS, connections=6, duration_s=1, work=tmp_path, key="a-key")
    assert load.num_requests == seen.total() > 6
    assert set(seen) == {(f"/v1/{name}/predict", "a-key") for name, _ in REQUESTS}
    assert load.rows_per_s >= load.num_requests / load.duration_s * (1 - 1e-5)  # the time is whole microseconds
    assert load.duration_s >= 1
    assert 0 < load.p50_ms <= load.p99_ms


def test_a_pack_under_way_when_the_time_is_up_does_not_make_the_server_slower() -> None:
    """64 callers, packs of 64 rows that take 1.1 s, four seconds: three packs are answered, which took 3.3 of them."""
    line = (
        '{"num_requests":192,"duration_us":4000000,"mean_us":1.1e6,"p50_us":1100000,"p99_us":1100000,"num_failures":0}'
    )
    load = read_result(f"Running 4s test\nRESULT {line}\n", connections=64, load_cpu_s=0.1, http_cpu_s=0.2)
    assert load.rows_per_s == pytest.approx(64 / 1.1)
    assert (load.num_requests, load.duration_s) == (192, 4)
    assert (load.p50_ms, load.p99_ms) == (1100, 1100)


def test_requests_that_fail_end_the_run(tmp_path: Path) -> None:
    with (
        answering(Counter(), {"/v1/broken/predict": 503}) as server,
        pytest.raises(SystemExit, match=r"\d+ of \d+ requests failed"),
    ):
        run_load(server, REQUESTS, connections=3, duration_s=1, work=tmp_path)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "requests.txt").write_text("/ {}\n", encoding="utf-8")
    command = [sys.executable, str(CLOSED_LOOP), "1", "1", "1", str(tmp_path / "requests.txt")]
    done = subprocess.run(command, env={"CLOSED_LOOP_KEY": "none"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


def test_where_it_would_take_the_servers_cores_wrk_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_program() == "closed_loop.py"
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    check_load()
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(SystemExit, match=r"wrk.* is not installed.* needs 8 cores: `apt-get install wrk`"):
        check_load()
