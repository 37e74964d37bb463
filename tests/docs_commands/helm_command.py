"""`helm`: the real one, to the point where it would send what it made to a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from real_parts import program


def run(arguments: Sequence[str]) -> int:
    assert arguments[0] == "install"
    return subprocess.run([program("helm"), *arguments, "--dry-run=client"], check=False).returncode
