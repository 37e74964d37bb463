"""The process's memory allocator: keep the memory of one pack for the next, but not all for ever. Knows glibc, nothing
of the project.

By default glibc hands every large activation back to the system when it is freed and fetches fresh, zeroed pages for
the next one: in our measurements that took a sixth of a pack's time on a CPU. Where it keeps them all, packs of many
sizes leave holes that the next do not fit in, and the process grows.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEEP_UP_TO_BYTES = 1 << 30

MAX_GROWTH_BYTES = 128 << 20  # the activations of a large pack, which the next will need again
LOOK_EVERY_S = 10.0  # handing back takes 20 to 60 ms, in which nobody gets memory


def keep_freed_memory() -> bool:
    """Let freed memory stay in the process, up to its own peak. False where the C library is not glibc."""
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_UP_TO_BYTES) and mallopt(M_TRIM_THRESHOLD, KEEP_UP_TO_BYTES))


def hand_back() -> None:
    """Give the system every free page, between those in use too (malloc_trim(3))."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


class FreedMemory:
    """Hands freed memory back whenever the process has grown a good deal since it last did so."""

    def __init__(self, hand_back: Callable[[], None] = hand_back) -> None:
        self._hand_back = hand_back
        self._least_bytes = resident_bytes()
        self._look_at = float("-inf")

    def look(self, now: float) -> None:
        """Call it as often as is convenient, with a clock's seconds."""
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        if resident_bytes() - self._least_bytes > MAX_GROWTH_BYTES:
            self._hand_back()
            self._least_bytes = resident_bytes()


def resident_bytes() -> int:
    """Of this process; 0 where the system is not Linux."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
