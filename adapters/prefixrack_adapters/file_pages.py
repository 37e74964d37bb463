"""Pages of mapped files: given back to the system once they were read. Knows no tensors and no formats; no torch.

A page that was read through a map counts as this process's memory until the map ends or the page is given back. Who
reads a file of weights once, to sample or to convert it, needs no more of it than the part in hand.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

MAPS = Path("/proc/self/maps")


class Span(NamedTuple):
    """Addresses [start, end) of one mapping."""

    start: int
    end: int


class FilePages:
    """The file mappings of this process at one moment: when all that will be given back is mapped already.

    Only for maps that nobody writes to, as those of weight files: giving back a page drops what was written there.
    Without /proc there are none, and nothing is given back.
    """

    def __init__(self) -> None:
        self._spans = _file_spans() if MAPS.exists() else []
        self._starts = [span.start for span in self._spans]

    def give_back(self, address: int, size_bytes: int) -> bool:
        """Give back the pages that lie wholly in a range that was read; reading it again would bring them back.

        False, and nothing done, where the range is not part of one file mapping: other memory would be lost.
        """
        end = address + size_bytes
        index = bisect_right(self._starts, address) - 1
        if index < 0 or end > self._spans[index].end:
            return False
        first, behind = address + -address % mmap.PAGESIZE, end - end % mmap.PAGESIZE
        if behind <= first:
            return True
        libc = ctypes.CDLL(None)
        return bool(libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(behind - first), mmap.MADV_DONTNEED) == 0)


def _file_spans() -> list[Span]:
    """In order of address. A line reads `start-end permissions offset device inode path`; no inode, no file."""
    spans = []
    for line in MAPS.read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            start, _, end = addresses.partition("-")
            spans.append(Span(int(start, 16), int(end, 16)))
    return spans
