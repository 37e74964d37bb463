"""Builds the documentation in a process of its own, as `make docs` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_site(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Whatever mkdocs warns of is an error."""
    options = ["--strict", "--config-file", str(config), "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
