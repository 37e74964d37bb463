"""The snapshot: answers of the registry that hold for one revision. Knows neither SQL nor what it keeps."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Snapshot(Generic[K, V]):
    """A bounded map that is emptied as a whole.

    Whoever reads SQL to fill it takes the `generation` first: an answer read before a clearing and put after it would
    bring the old state back, so `put` drops it.
    """

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: dict[K, V] = {}
        self.generation = 0

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def put(self, generation: int, key: K, value: V) -> None:
        if generation != self.generation:
            return
        if len(self._entries) >= self._max_entries:
            self._entries.clear()
        self._entries[key] = value

    def clear(self) -> None:
        self._entries.clear()
        self.generation += 1
