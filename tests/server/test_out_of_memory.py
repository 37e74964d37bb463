"""What counts as memory that ran out, and what does not."""

from __future__ import annotations

import pytest
import torch

from prefixrack_server.out_of_memory import is_out_of_memory


def test_what_the_cpu_allocator_really_says() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_by_class_and_text(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
