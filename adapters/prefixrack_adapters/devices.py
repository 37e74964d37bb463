"""Where a backbone computes and in which dtype: names to what torch knows, and what "auto" means. Knows no models."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from prefixrack.errors import InvalidRequest

INT8 = "int8"  # of weights; what is computed with them is in the processor's fastest dtype
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> str:
    """CUDA for "auto" where there is one. Raises InvalidRequest for a device that this machine does not have."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises either, by what is wrong
        reason = str(error).partition("\n")[0]
        raise InvalidRequest(f"device {device!r} cannot be used ({reason}): use auto, cpu or cuda") from None
    return device


def current(device: str) -> AbstractContextManager[object]:
    """Make a GPU this thread's current one for a block: kernels of our own and events go to that, not to where their
    tensors are."""
    return torch.cuda.device(device) if device.startswith("cuda") else nullcontext()


def resolve_dtype(dtype: str) -> torch.dtype:
    """Float32 for "auto": a library's numbers are exact unless asked otherwise. Raises InvalidRequest."""
    if dtype == "auto":
        return torch.float32
    if dtype not in DTYPES:
        raise InvalidRequest(
            f"dtype {dtype!r} is not known: use auto, {', '.join(DTYPES)}, and for inference on a CPU {INT8}"
        )
    return DTYPES[dtype]


def fastest_dtype(device: str) -> str:
    """Bfloat16 where the processor multiplies it faster than float32, which serving and training prefer; else float32.

    On a CPU that is with AVX512-BF16 or AMX: without them oneDNN only emulates it.
    """
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
