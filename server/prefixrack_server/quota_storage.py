"""The counts behind quotas, in memory that the front ends of one server share. Knows neither tenants nor quotas.

It counts as `limits`' storages do for their sliding window counter: of those, the one in memory counts for one process
only, and all others are servers to run. Slots lie in sets; a key's set is known from its hash, so all processes agree.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple

from prefixrack_server.file_turns import file_turn

NUM_SETS: Final = 4096
SLOTS_A_SET: Final = 16
ID_BYTES: Final = 16
_SLOT: Final = struct.Struct(f"<{ID_BYTES}sQQQ")
NUM_BYTES: Final = NUM_SETS * SLOTS_A_SET * _SLOT.size


class Slot(NamedTuple):
    """The counts of one key in the window of this number, counted from the epoch, and in the one before."""

    key_id: bytes
    window: int
    current: int
    previous: int

    def at(self, window: int) -> Slot:
        """As it is in a later window."""
        if window <= self.window:
            return self
        is_next = window == self.window + 1
        return Slot(self.key_id, window, 0, self.current if is_next else 0)


class SharedStorage:
    """Process life. All processes that open one file count together, in turns that the system gives."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Without a path it counts for this process alone."""
        self._clock = clock
        self._file = None if path is None else path.open("r+b")
        self._memory = mmap.mmap(-1 if self._file is None else self._file.fileno(), NUM_BYTES)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` if it fits."""
        with file_turn(self._file):  # the event loop waits for the microseconds that another one takes
            now = self._clock()
            place, slot = self._find(key, int(now // expiry))
            weighted = slot.previous * (1 - now / expiry % 1) + slot.current
            if int(weighted) + amount > limit:
                return False
            _SLOT.pack_into(self._memory, place, *slot._replace(current=slot.current + amount))
            return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Count and seconds to live of the previous window, and of the current one."""
        with file_turn(self._file):
            now = self._clock()
            _, slot = self._find(key, int(now // expiry))
        left_s = (1 - now / expiry % 1) * expiry
        return slot.previous, left_s if slot.previous else 0.0, slot.current, left_s + expiry

    def close(self) -> None:
        self._memory.close()
        if self._file is not None:
            self._file.close()

    def _find(self, key: str, window: int) -> tuple[int, Slot]:
        """The key's slot, or the one that it takes over: the least used of those that are furthest back."""
        key_id = blake2b(key.encode(), digest_size=ID_BYTES).digest()
        first = int.from_bytes(key_id[:4], "little") % NUM_SETS * SLOTS_A_SET * _SLOT.size
        places = range(first, first + SLOTS_A_SET * _SLOT.size, _SLOT.size)
        slots = [Slot(*_SLOT.unpack_from(self._memory, place)) for place in places]
        for place, slot in zip(places, slots, strict=True):
            if slot.key_id == key_id:
                return place, slot.at(window)
        oldest = min(range(SLOTS_A_SET), key=lambda index: (slots[index].window, slots[index].current))
        return places[oldest], Slot(key_id, window, 0, 0)


def make_quota_file(path: Path) -> None:
    """An empty file takes no room until something is counted in it."""
    with path.open("xb") as file:
        file.truncate(NUM_BYTES)
