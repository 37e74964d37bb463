"""ModernBERT: rotary positions, most layers see a window around each token. Knows no rows and no adapters."""

from __future__ import annotations

from torch import Tensor

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.families.stock import Stock


class ModernBert(Stock):
    """Its embedding layer is a normalisation only: positions turn queries and keys, own ones and not a prefix's."""

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.model.embeddings(inputs_embeds=words[None])  # type: ignore[operator]
        return embedded[0]

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        return self._run(words, positions, pack)
