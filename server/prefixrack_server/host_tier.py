"""The host tier: adapters in the machine's memory, one copy away from the device. Knows digests and bytes; no torch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class HostStats:
    held_bytes: int
    budget_bytes: int
    num_hits: int


class Held(NamedTuple, Generic[A]):
    adapter: A
    size_bytes: int


class HostTier(Generic[A]):
    """The most recently used adapters, as many as fit the budget; with a budget of 0 it holds none.

    For any thread: each call is bookkeeping under a lock of its own. Who holds what `get` gave keeps it alive, though
    it be dropped here meanwhile.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held[A]] = OrderedDict()  # least recently used first
        self._held_bytes = 0
        self._num_hits = 0

    def put(self, digest: str, adapter: A, size_bytes: int) -> None:
        """Hold this adapter as the one used last. One that is larger than the budget is not held."""
        with self._lock:
            self._drop(digest)
            if size_bytes > self._budget_bytes:
                return
            self._held[digest] = Held(adapter, size_bytes)
            self._held_bytes += size_bytes
            while self._held_bytes > self._budget_bytes:
                self._drop(next(iter(self._held)))

    def get(self, digest: str) -> A | None:
        """For a load: what is found counts as a hit."""
        with self._lock:
            adapter = self._touch(digest)
            self._num_hits += adapter is not None
            return adapter

    def touch(self, digest: str) -> A | None:
        """It will be wanted: the other ones go first."""
        with self._lock:
            return self._touch(digest)

    def holds(self, digest: str) -> bool:
        """Without wanting it: nothing is moved."""
        with self._lock:
            return digest in self._held

    def drop(self, digest: str) -> None:
        with self._lock:
            self._drop(digest)

    def stats(self) -> HostStats:
        with self._lock:
            return HostStats(self._held_bytes, self._budget_bytes, self._num_hits)

    def _touch(self, digest: str) -> A | None:
        held = self._held.get(digest)
        if held is None:
            return None
        self._held.move_to_end(digest)
        return held.adapter

    def _drop(self, digest: str) -> None:
        held = self._held.pop(digest, None)
        if held is not None:
            self._held_bytes -= held.size_bytes
