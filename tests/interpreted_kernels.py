"""Triton kernels in tests: compiled where there is a GPU, interpreted on the CPU elsewhere, skipped without Triton."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

import pytest
import torch
from packaging.version import Version

OLDEST_INTERPRETER = Version("3.7")  # Triton 3.6, which comes with torch 2.11, interprets no kernel on numpy 2
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def kernels_or_skip() -> None:
    """Call it before `prefixrack_adapters.gpu` is imported."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton (Linux alone)", allow_module_level=True)
    if DEVICE == "cpu" and Version(version("triton")) < OLDEST_INTERPRETER:
        pytest.skip(
            f"triton {version('triton')} cannot interpret them: {OLDEST_INTERPRETER} can", allow_module_level=True
        )
