"""What inference on an NVIDIA GPU does in kernels of its own, written in Triton. Needs `triton`, which torch brings."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

LOG = logging.getLogger(__name__)


@cache
def has_kernels() -> bool:
    """Whether Triton is installed; its absence is logged once. The modules of this package import it."""
    if find_spec("triton") is not None:
        return True
    LOG.warning("triton is not installed: attention on the GPU is padded, and heads run one by one, which is slower")
    return False
