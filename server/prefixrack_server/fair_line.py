"""Lines in which tenants take turns: whoever brings much delays nobody else. Knows no adapters.

Not thread-safe: a caller holds one lock around every call.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

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
        self._line: FairLine[int, tuple[int, Callable[[], object]]] = FairLine()

    def submit(self, tenant: str, job: Callable[[], object]) -> None:
        number = next(self._numbers)
        self._line.add(tenant, number, (number, job))
        self._start()

    def close(self) -> None:
        """Start no more of them."""
        self._line.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._num_free and self._line:
            number, job = self._line.first()
            self._line.serve(number)
            self._num_free -= 1
            self._threads.submit(job).add_done_callback(self._end)

    def _end(self, job: Future[object]) -> None:
        """A job answers every failure itself; what comes out of it is our own mistake and must be seen."""
        if not job.cancelled() and (error := job.exception()) is not None:
            log.critical("a job of fetching or loading an adapter crashed", exc_info=error)
        with self._lock:
            self._num_free += 1
            self._start()
