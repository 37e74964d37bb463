"""Jobs that a thread does between others of its own, when it chooses to. Knows no jobs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

from prefixrack_server.daemon_threads import Job

P = ParamSpec("P")
T = TypeVar("T")


class OwnTurns(Executor):
    """`wake` is called for each job that comes, by whoever brings it: the thread may be asleep."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append(Job(future, partial(fn, *args, **kwargs)))
        self._wake()
        return future

    def run_next(self) -> None:
        """The one that has waited longest. There is one: nobody else takes any."""
        self._jobs.popleft().do()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The thread ends, or goes on without them: jobs that wait are cancelled."""
        while self._jobs:
            self._jobs.popleft().future.cancel()
