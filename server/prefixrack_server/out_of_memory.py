"""Whether an exception means that memory ran out, the device's or the host's. Knows torch's ways of saying so."""

from __future__ import annotations

from typing import Final

import torch

# As allocators say it whose exceptions have no class of their own: torch's on a CPU, cuBLAS for its workspace.
SIGNS: Final = ("can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
