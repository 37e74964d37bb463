"""BERT's embedding layer in inference on a CPU: one lookup instead of two, one kernel for sum and normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prefixrack_adapters.native.norm import NativeNorm, compiled_norm


class EmbeddingSum:
    """LayerNorm(words + segment + position). What segment and position add is summed once, for every pair of them."""

    def __init__(self, embeddings: Any, kernel: NativeNorm) -> None:
        segments, positions = embeddings.token_type_embeddings.weight, embeddings.position_embeddings.weight
        self._kernel, self._norm, self._num_positions = kernel, embeddings.LayerNorm, len(positions)
        with torch.no_grad():
            self._added = (segments[:, None] + positions).flatten(0, 1)

    @classmethod
    def of(cls, embeddings: Any) -> EmbeddingSum | None:
        """None where the kernel is not there or does not take this normalisation."""
        kernel = compiled_norm() if NativeNorm.takes(embeddings.LayerNorm) else None
        return None if kernel is None else cls(embeddings, kernel)

    def __call__(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """words [T, width], segments and positions [T] → [T, width], in the place of `words`."""
        places = segments * self._num_positions + positions
        return self._kernel(words.contiguous(), self._added, self._norm, places)
