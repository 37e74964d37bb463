"""The scoreboard: counts by key, of the busiest keys each for itself and of all others together. Knows numbers only.

Memory of a fixed size, however many keys come. Front ends of one server share it as they do the noticeboard: each adds
to its own line, so nothing needs a lock; a reader adds up the lines. Which key has which slot is changed under a lock
on the file, seldom.

A key that comes while there is a slot gets it, and keeps it until another one has had `TAKES_OVER` times its traffic of
the last minutes, or until it is released. Every count goes to one slot, at the time: so no sum ever falls, that of the
others neither.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prefixrack_server.file_turns import file_turn

Key = tuple[str, ...]

CELL_BYTES: Final = 8
KEY_BYTES: Final = 256
SEPARATOR: Final = "\t"  # in no name
SLOT_BYTES: Final = CELL_BYTES + KEY_BYTES
# Cells of a slot in a line: whose counts these are, its recent traffic, then what the owner of the board counts.
GENERATION, HEAT, FIRST = range(3)
OTHERS: Final = 0  # the slot of all keys without one of their own

TAKES_OVER: Final = 2
MAX_CHANGES: Final = 5  # a turn
TURN_S: Final = 60.0  # in which what is known of recent traffic is halved


class Score(NamedTuple):
    """The counts of one key; `key` None for the others."""

    key: Key | None
    counts: list[int]


class Scoreboard:
    """Process life; `line` is the one of this front end, `num_counts` what is counted for a key. It belongs to the
    event loop's thread."""

    def __init__(
        self, memory: bytearray | mmap.mmap, num_keys: int, num_counts: int, line: int = 0, file: int | None = None
    ) -> None:
        self._num_slots = num_keys + 1
        self._num_cells = FIRST + num_counts
        self._file = file
        head = CELL_BYTES + self._num_slots * SLOT_BYTES
        whole = memoryview(memory)
        self._version = whole[:CELL_BYTES].cast("q")
        self._slots = [whole[at : at + SLOT_BYTES] for at in range(CELL_BYTES, head, SLOT_BYTES)]
        self._generations = [slot[:CELL_BYTES].cast("q") for slot in self._slots]
        self.cells = whole[head:].cast("q")
        self._first = line * self._num_slots * self._num_cells
        self._seen = -1
        self._places: dict[Key, int] = {}
        self._is_full = False
        self._unplaced: dict[Key, int] = {}  # their recent traffic

    @classmethod
    def alone(cls, num_keys: int, num_counts: int) -> Scoreboard:
        """That of a server with one front end, in its own memory."""
        return cls(bytearray(_size_bytes(num_keys, num_counts, 1)), num_keys, num_counts)

    @classmethod
    def open(cls, path: Path, num_keys: int, num_counts: int, line: int) -> Scoreboard:
        file = os.open(path, os.O_RDWR)
        return cls(mmap.mmap(file, 0), num_keys, num_counts, line, file)

    def place(self, key: Key, heat: int) -> int:
        """Where in `cells` this front end counts for the key. `heat` is how much traffic it brings."""
        if self._version[0] != self._seen:
            self._read_slots()
        place = self._places.get(key)
        if place is None:
            place = self._place_of_new(key, heat)
        self.cells[place + HEAT - FIRST] += heat
        return place

    def turn(self) -> None:
        """Give slots to keys that have become busier than those that hold them, and forget older traffic by half."""
        with file_turn(self._file):
            self._read_slots()
            for key in sorted(self._unplaced, key=self._unplaced.__getitem__, reverse=True)[:MAX_CHANGES]:
                heats = {slot: self._heat(slot) for slot in range(1, self._num_slots)}
                coldest = min(heats, key=heats.__getitem__)
                if self._unplaced[key] <= TAKES_OVER * heats[coldest]:
                    break
                self._give(coldest, key)
        for slot in range(self._num_slots):
            self.cells[self._at(slot) + HEAT] //= 2
        self._unplaced = {key: heat // 2 for key, heat in self._unplaced.items() if heat > 1}

    def release(self, keys: Collection[Key]) -> None:
        """Free the slots of keys that will not come again; what was counted for them is gone."""
        with file_turn(self._file):
            self._read_slots()
            for slot in [slot for slot in range(self._num_slots) if self._key(slot) in keys]:
                self._write(slot, "")

    def scores(self) -> list[Score]:
        """Of all front ends together; the others come first."""
        with file_turn(self._file):
            return [
                Score(self._key(slot), self._counts(slot)) for slot in range(self._num_slots) if self._is_used(slot)
            ]

    def _place_of_new(self, key: Key, heat: int) -> int:
        others = self._at(OTHERS) + FIRST
        if len(SEPARATOR.join(key).encode()) > KEY_BYTES:
            return others
        if self._is_full:
            self._unplaced[key] = self._unplaced.get(key, 0) + heat
            return others
        with file_turn(self._file):
            self._read_slots()
            free = next((slot for slot in range(1, self._num_slots) if not self._is_used(slot)), None)
            if key not in self._places and free is not None:
                self._give(free, key)
        return self._places.get(key, others)

    def _give(self, slot: int, key: Key) -> None:
        """Under the lock."""
        self._write(slot, SEPARATOR.join(key))
        self.cells[self._at(slot) + HEAT] = self._unplaced.pop(key, 0)

    def _write(self, slot: int, text: str) -> None:
        """A new generation: what the lines hold for the slot's former key counts no more."""
        self._slots[slot][CELL_BYTES:] = text.encode().ljust(KEY_BYTES, b"\0")
        self._generations[slot][0] += 1
        self._version[0] += 1
        self._read_slots()

    def _read_slots(self) -> None:
        self._seen = self._version[0]
        self._places = {}
        for slot in range(self._num_slots):
            self._begin(slot)
            key = self._key(slot)
            if key is not None:
                self._places[key] = self._at(slot) + FIRST
        self._is_full = len(self._places) == self._num_slots - 1

    def _begin(self, slot: int) -> None:
        """This line's counts for a slot begin at zero when it changes hands."""
        at, generation = self._at(slot), self._generations[slot][0]
        if self.cells[at + GENERATION] != generation:
            for cell in range(at, at + self._num_cells):
                self.cells[cell] = 0
            self.cells[at + GENERATION] = generation

    def _at(self, slot: int) -> int:
        return self._first + slot * self._num_cells

    def _is_used(self, slot: int) -> bool:
        return slot == OTHERS or self._slots[slot][CELL_BYTES] != 0

    def _key(self, slot: int) -> Key | None:
        if slot == OTHERS or not self._is_used(slot):
            return None
        text = bytes(self._slots[slot][CELL_BYTES:]).rstrip(b"\0").decode()
        return tuple(text.split(SEPARATOR))

    def _lines_of(self, slot: int) -> Iterator[int]:
        """Where in `cells` each line has the slot, those left out that still hold a former key's counts."""
        for first in range(0, len(self.cells), self._num_slots * self._num_cells):
            at = first + slot * self._num_cells
            if self.cells[at + GENERATION] == self._generations[slot][0]:
                yield at

    def _heat(self, slot: int) -> int:
        return sum(self.cells[at + HEAT] for at in self._lines_of(slot))

    def _counts(self, slot: int) -> list[int]:
        counts = [0] * (self._num_cells - FIRST)
        for at in self._lines_of(slot):
            for index, count in enumerate(self.cells[at + FIRST : at + self._num_cells]):
                counts[index] += count
        return counts


def make_scoreboard(path: Path, num_keys: int, num_counts: int, num_lines: int) -> None:
    path.write_bytes(bytes(_size_bytes(num_keys, num_counts, num_lines)))


def _size_bytes(num_keys: int, num_counts: int, num_lines: int) -> int:
    num_slots = num_keys + 1
    return CELL_BYTES + num_slots * SLOT_BYTES + num_lines * num_slots * (FIRST + num_counts) * CELL_BYTES
