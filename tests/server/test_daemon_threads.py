from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from prefixrack_server.daemon_threads import DaemonThreads

WAIT_S = 60.0


def test_jobs_run_beside_each_other_and_give_their_results() -> None:
    both_run = threading.Barrier(2)
    with DaemonThreads(2, "test") as threads:
        places = [threads.submit(both_run.wait, WAIT_S) for _ in range(2)]
        assert sorted(place.result(WAIT_S) for place in places) == [0, 1]
        names = {threads.submit(lambda: threading.current_thread().name).result(WAIT_S) for _ in range(10)}
    assert names <= {"test-0", "test-1"}


def test_what_a_job_raises_is_its_result_and_the_thread_goes_on() -> None:
    with DaemonThreads(1, "test") as threads:
        broken = threads.submit(int, "no number")
        assert threads.submit(int, "7").result(WAIT_S) == 7
    with pytest.raises(ValueError, match="no number"):
        broken.result()


def test_each_thread_is_prepared_once() -> None:
    prepared: list[int] = []
    with DaemonThreads(1, "test", lambda: prepared.append(threading.get_ident())) as threads:
        idents = [threads.submit(threading.get_ident).result(WAIT_S) for _ in range(3)]
    assert prepared == idents[:1]


def test_after_shutdown_what_waits_is_cancelled_and_nothing_new_is_taken() -> None:
    threads, is_running, may_end = DaemonThreads(1, "test"), threading.Event(), threading.Event()

    def work() -> bool:
        is_running.set()
        return may_end.wait(WAIT_S)

    running, waiting = threads.submit(work), threads.submit(work)
    assert is_running.wait(WAIT_S)
    threads.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(work)
    may_end.set()
    threads.join()
    assert running.result() is True


def test_a_job_that_hangs_keeps_no_process_alive() -> None:
    code = (
        "import threading; from prefixrack_server.daemon_threads import DaemonThreads;"
        "threads = DaemonThreads(1, 'test'); threads.submit(threading.Event().wait);"
        "threads.shutdown(wait=False); threads.join(0.1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=WAIT_S, check=False).returncode == 0
