"""A pool of threads that nobody has to wait for at the end of the process. Knows no jobs.

`ThreadPoolExecutor` joins its threads when the interpreter ends: for ever, where one hangs in reading a dead disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Job(NamedTuple):
    future: Future[Any]
    run: Callable[[], Any]


class DaemonThreads(Executor):
    """Up to `max_threads`, started as jobs come; each calls `initializer` first."""

    def __init__(self, max_threads: int, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._max_threads = max_threads
        self._name = name
        self._initializer = initializer
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # None ends one thread
        self._threads: list[threading.Thread] = []
        self._is_shut_down = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError(f"the threads of {self._name} are shut down: they take no more jobs")
            self._jobs.put(Job(future, partial(fn, *args, **kwargs)))
            if len(self._threads) < self._max_threads:
                self._start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Jobs that run go on; those that wait are done first, or cancelled."""
        with self._lock:
            self._is_shut_down = True
            if cancel_futures:
                self._cancel_waiting()
            for _ in self._threads:
                self._jobs.put(None)
        if wait:
            self.join()

    def join(self, timeout_s: float | None = None) -> None:
        """After `shutdown`: wait until all threads have ended, for `timeout_s` at most."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def _start(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _cancel_waiting(self) -> None:
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job.future.cancel()

    def _work(self) -> None:
        if self._initializer is not None:
            self._initializer()
        while (job := self._jobs.get()) is not None:
            _run(job)


def _run(job: Job) -> None:
    if not job.future.set_running_or_notify_cancel():
        return
    try:
        result = job.run()
    except BaseException as error:  # noqa: BLE001 - whatever it was is the answer to whoever asks for the result
        job.future.set_exception(error)
    else:
        job.future.set_result(result)
