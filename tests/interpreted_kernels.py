"""Triton kernels in tests: compiled where there is a GPU, interpreted on the CPU elsewhere, skipped without Triton."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def kernels_or_skip() -> None:
    """Call it before `prefixrack_adapters.gpu` is imported."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton (Linux alone)", allow_module_level=True)
