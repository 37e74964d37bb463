from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prefixrack_server import allocator


def said(code: str, mode: str) -> str:
    """By a process of its own."""
    return subprocess.check_output([sys.executable, "-c", code, mode], text=True).strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_stay_in_the_process() -> None:
    """By default a freed block of 32 MB goes back at once; afterwards it stays."""
    code = (
        "import sys; from prefixrack_server.allocator import keep_freed_memory;"
        "import numpy as np, psutil; me = psutil.Process();"
        "sys.argv[1] == 'keep' and keep_freed_memory();"
        "block = np.ones(1 << 25, dtype=np.uint8); held = me.memory_info().rss; del block;"
        "print(held - me.memory_info().rss > 1 << 24)"
    )
    assert [said(code, mode) for mode in ("default", "keep")] == ["True", "False"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False


HOLES = """
import sys, numpy as np, psutil
from prefixrack_server.allocator import hand_back, keep_freed_memory
keep_freed_memory()
blocks = [np.ones(1 << 20, dtype=np.uint8) for _ in range(64)]
pins = blocks[1::2]
held = psutil.Process().memory_info().rss
del blocks
if sys.argv[1] == "hand-back":
    hand_back()
print(held - psutil.Process().memory_info().rss > 1 << 24)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is glibc's")
def test_what_is_free_between_blocks_in_use_is_handed_back() -> None:
    gave_back = [
        subprocess.check_output([sys.executable, "-c", HOLES, mode], text=True).strip()
        for mode in ("keep", "hand-back")
    ]
    assert gave_back == ["False", "True"]


def test_freed_memory_is_handed_back_where_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, least, times = 0, 7, []

    def hand_back() -> None:
        nonlocal resident
        resident = least
        times.append(now)

    monkeypatch.setattr(allocator, "resident_bytes", lambda: resident)
    freed = allocator.FreedMemory(hand_back)
    for now, resident in (  # noqa: B007 - `hand_back` reads them
        (0.0, allocator.MAX_GROWTH_BYTES),
        (10.0, allocator.MAX_GROWTH_BYTES + 1),
        (11.0, 2 * allocator.MAX_GROWTH_BYTES),  # too soon
        (20.0, allocator.MAX_GROWTH_BYTES + least),
        (30.0, allocator.MAX_GROWTH_BYTES + least + 1),
    ):
        freed.look(now)

    assert times == [10.0, 30.0]
