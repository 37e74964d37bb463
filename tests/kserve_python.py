"""Where KServe's client is: it asks for older libraries than the server has."""

from __future__ import annotations

import os
from pathlib import Path

from real_parts import missing

VENV = Path(__file__).parents[1] / ".venv-kserve"


def kserve_python() -> str:
    """The interpreter beside it: that of PREFIXRACK_KSERVE_PYTHON, else of `.venv-kserve`."""
    python = os.environ.get("PREFIXRACK_KSERVE_PYTHON", str(VENV / "bin" / "python"))
    return python if Path(python).exists() else missing("KServe's client is not installed: make .venv-kserve/stamp")
