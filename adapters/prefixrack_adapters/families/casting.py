"""Casting a model that lies in mapped files, block by block. Knows no families, no packs and no adapters.

The files are read once, and what was read is given back at once: at any moment the process holds what is cast so far
and one block of the file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prefixrack_adapters.file_pages import FilePages

BLOCK_BYTES = 1 << 20  # of the source; a vocabulary of word vectors is too large to hold twice


def cast_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """Turn every parameter into `dtype`, in place. Buffers stay: rotary frequencies are computed in float32."""
    pages = FilePages()
    for parameter in model.parameters():  # each once: tied ones are the same object
        if parameter.dtype is not dtype:
            parameter.data = _cast(parameter.data, dtype, pages)


def _cast(source: Tensor, dtype: torch.dtype, pages: FilePages) -> Tensor:
    if not source.is_contiguous():
        return source.to(dtype)
    target = torch.empty(source.shape, dtype=dtype)
    blocks = source.view(-1).split(BLOCK_BYTES // source.itemsize)
    for block, into in zip(blocks, target.view(-1).split(BLOCK_BYTES // source.itemsize), strict=True):
        into.copy_(block)
        pages.give_back(block.data_ptr(), block.nbytes)
    return target
