"""`pip install`: the real one, without an index. It reads this checkout's metadata and finds it all installed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence

from docs_commands import WrongCommand

PIP = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
# An editable install has the same metadata, and wants one more package to make them.
OFFLINE = ("--dry-run", "--no-index", "--no-build-isolation")
UNKNOWN_EXTRA = "does not provide the extra"  # only a warning to pip


def run(arguments: Sequence[str]) -> int:
    assert arguments[0] == "install"
    wanted = [re.sub(r"^prefixrack(?=\[|$)", ".", word) for word in arguments[1:] if word != "--editable"]
    done = subprocess.run([*PIP, "install", *OFFLINE, *wanted], capture_output=True, text=True, check=False)
    if done.returncode or UNKNOWN_EXTRA in done.stderr:
        raise WrongCommand(f"{done.stdout}{done.stderr}")
    return 0
