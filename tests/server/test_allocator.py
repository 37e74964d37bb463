from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prefixrack_server import allocator


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
    gave_back = [
        subprocess.check_output([sys.executable, "-c", code, mode], text=True).strip() for mode in ("default", "keep")
    ]
    assert gave_back == ["True", "False"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
