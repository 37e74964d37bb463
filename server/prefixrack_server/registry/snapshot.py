"""The snapshot: answers of the registry that hold until something changes. Knows neither SQL nor what it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Entry(NamedTuple, Generic[V]):
    value: V
    epoch: int  # entries of an earlier one are in doubt


class Snapshot(Generic[K, V]):
    """A bounded map that is emptied as a whole, or by the group that `group_of` puts a key into.

    What may have changed is put in doubt, not dropped: `get` no longer has it, `last_known` still does, for a time in
    which nobody can be asked.

    Whoever reads SQL to fill it takes the `generation` first: an answer read before something is dropped and put after
    it would bring the old state back, so `put` leaves it out.
    """

    def __init__(self, max_entries: int, group_of: Callable[[K], Hashable] = lambda key: key) -> None:
        self._max_entries = max_entries
        self._group_of = group_of
        self._entries: dict[K, Entry[V]] = {}
        self._groups: defaultdict[Hashable, set[K]] = defaultdict(set)
        self._epoch = 0
        self.generation = 0

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.epoch != self._epoch else entry.value

    def last_known(self, key: K) -> V | None:
        """The answer even if it is in doubt."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, generation: int, key: K, value: V) -> None:
        if generation != self.generation:
            return
        if len(self._entries) >= self._max_entries:
            self._empty()
        self._entries[key] = Entry(value, self._epoch)
        self._groups[self._group_of(key)].add(key)

    def forget(self, group: Hashable) -> None:
        """Drop the answers of one group."""
        for key in self._groups.pop(group, ()):
            del self._entries[key]
        self.generation += 1

    def doubt(self) -> None:
        """Something may have changed, nobody knows what."""
        self._epoch += 1
        self.generation += 1

    def clear(self) -> None:
        self._empty()
        self.generation += 1

    def _empty(self) -> None:
        self._entries.clear()
        self._groups.clear()
