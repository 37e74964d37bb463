"""Read before any test module: without a GPU, Triton interprets its kernels, and it decides so as it is imported."""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
