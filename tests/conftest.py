"""Read before any test module: without a GPU, Triton interprets its kernels, and it decides so as it is imported. And
no example of Hypothesis has a time to keep: on a busy machine any takes longer than the usual 200 ms."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from hypothesis import settings

if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("patient", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """What was imported stays: to look through all of it takes a collection 0.2 s, and every training makes two."""
    gc.collect()
    gc.freeze()
