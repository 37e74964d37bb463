"""Lines in which tenants take turns: whoever brings much delays nobody else. Knows no adapters.

Not thread-safe: a caller holds one lock around every call.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import Any, Final, Generic, TypeVar

log = logging.getLogger(__name__)

# Whose turn a job is that serves several tenants: no tenant has this name.
EVERYBODY: Final = "*"

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class FairLine(Generic[K, T]):
    """First come, first served within a tenant, and one of each tenant in turn.

    A tenant that comes anew is the last of them. So who is first stays first until it is served, and waits for one of
    each other tenant at most.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, OrderedDict[K, T]] = OrderedDict()
        self._tenants: dict[K, str] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, key: K) -> bool:
        return key in self._tenants

    def add(self, tenant: str, key: K, item: T) -> None:
        """At the end of the tenant's own; where it stands, if it is there already."""
        if key not in self._tenants:
            self._tenants[key] = tenant
            self._lines.setdefault(tenant, OrderedDict())[key] = item

    def first(self) -> T:
        return next(iter(next(iter(self._lines.values())).values()))

    def take(self) -> T:
        """Serve the first."""
        key, item = next(iter(next(iter(self._lines.values())).items()))
        self.serve(key)
        return item

    def serve(self, key: K) -> None:
        """Take it out, if it is still there: it was its tenant's turn."""
        tenant = self._tenants.get(key)
        if tenant is not None and self.discard(key) and tenant in self._lines:
            self._lines.move_to_end(tenant)

    def discard(self, key: K) -> bool:
        """Take it out, though it was not served. Whether it was there."""
        tenant = self._tenants.pop(key, None)
        if tenant is None:
            return False
        line = self._lines[tenant]
        del line[key]
        if not line:
            del self._lines[tenant]
        return True

    def clear(self) -> None:
        self._lines.clear()
        self._tenants.clear()


class FairJobs:
    """Jobs for some threads, which belong to it from here on: they are given as many as they run at once, and the order
    of the others is decided here. `lock` is the caller's, reentrant; jobs run outside it."""

    def __init__(self, threads: Executor, num_threads: int, lock: AbstractContextManager[Any]) -> None:
        self._threads = threads
        self._num_free = num_threads
        self._lock = lock
        self._numbers = itertools.count()
        self._line: FairLine[int, Callable[[], object]] = FairLine()

    def submit(self, tenant: str, job: Callable[[], object]) -> None:
        self._line.add(tenant, next(self._numbers), job)
        self._start()

    def close(self) -> None:
        """Start no more of them."""
        self._line.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._num_free and self._line:
            self._num_free -= 1
            self._threads.submit(self._line.take()).add_done_callback(self._end)

    def _end(self, job: Future[object]) -> None:
        """A job answers every failure itself; what comes out of it is our own mistake and must be seen."""
        if not job.cancelled() and (error := job.exception()) is not None:
            log.critical("a job of fetching or loading an adapter crashed", exc_info=error)
        with self._lock:
            self._num_free += 1
            self._start()


class FairBatches(Generic[T]):
    """Items that `run` handles together, each tenant's in turn: as many as have come, at most `max_items`.

    One job at a time does so, with a turn of its own among `jobs`: items wait for one job of each tenant at most,
    however many stand in that line. `lock` is the caller's, reentrant; `run` is called outside it.
    """

    def __init__(
        self, jobs: FairJobs, lock: AbstractContextManager[Any], run: Callable[[Sequence[T]], object], max_items: int
    ) -> None:
        self._jobs = jobs
        self._lock = lock
        self._run = run
        self._max_items = max_items
        self._is_under_way = False
        self._numbers = itertools.count()
        self._line: FairLine[int, T] = FairLine()

    def submit(self, tenant: str, item: T) -> None:
        self._line.add(tenant, next(self._numbers), item)
        self._start()

    def close(self) -> None:
        """Start no more of them."""
        self._line.clear()

    def _start(self) -> None:
        if self._line and not self._is_under_way:
            self._is_under_way = True
            self._jobs.submit(EVERYBODY, self._run_some)

    def _run_some(self) -> None:
        with self._lock:
            items = [self._line.take() for _ in range(min(len(self._line), self._max_items))]
        try:
            self._run(items)
        finally:
            with self._lock:
                self._is_under_way = False
                self._start()
