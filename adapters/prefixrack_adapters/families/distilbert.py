"""DistilBERT: BERT without segments. Knows no rows and no adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.families.stock import Stock


class DistilBert(Stock):
    """Learned or sinusoidal positions: both come as weights."""

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        family = super().load(folder, dtype)
        model: Any = family.model
        for layer, block in enumerate(model.transformer.layer):
            block.attention.layer_idx = layer  # stock modules do not know which layer they are
        return family

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.model.embeddings(None, words[None], positions[None])  # type: ignore[operator]
        return embedded[0]

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        return self._run(words, positions, pack)
