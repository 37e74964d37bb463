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


class Moment(NamedTuple):
    """When an answer was read: after how many times something was dropped, and in which epoch."""

    num_drops: int
    epoch: int


class Snapshot(Generic[K, V]):
    """A bounded map that is emptied as a whole, or by the group that `group_of` puts a key into.

    What may have changed is put in doubt, not dropped: `get` no longer has it, `last_known` still does, for a time in
    which nobody can be asked.

    Whoever reads SQL to fill it takes the `moment` first: an answer read before something is dropped and put after it
    would bring the old state back, so `put` leaves it out. One read before a doubt is in doubt.
    """

    def __init__(self, max_entries: int, group_of: Callable[[K], Hashable] = lambda key: key) -> None:
        self._max_entries = max_entries
        self._group_of = group_of
        self._entries: dict[K, Entry[V]] = {}
        self._groups: defaultdict[Hashable, set[K]] = defaultdict(set)
        self._num_drops = 0
        self._epoch = 0

    @property
    def moment(self) -> Moment:
        return Moment(self._num_drops, self._epoch)

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        return None if entry is None or entry.epoch != self._epoch else entry.value

    def last_known(self, key: K) -> V | None:
        """The answer even if it is in doubt."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, read_at: Moment, key: K, value: V) -> None:
        if read_at.num_drops != self._num_drops:
            return
        known = self._entries.get(key)
        if known is not None and known.epoch > read_at.epoch:
            return
        if len(self._entries) >= self._max_entries:
            self._empty()
        self._entries[key] = Entry(value, read_at.epoch)
        self._groups[self._group_of(key)].add(key)

    def forget(self, group: Hashable) -> None:
        """Drop the answers of one group."""
        for key in self._groups.pop(group, ()):
            del self._entries[key]
        self._num_drops += 1

    def doubt(self) -> None:
        """Something may have changed, nobody knows what."""
        self._epoch += 1

    def clear(self) -> None:
        self._empty()
        self._num_drops += 1

    def _empty(self) -> None:
        self._entries.clear()
        self._groups.clear()
