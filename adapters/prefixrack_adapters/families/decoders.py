"""Decoders: GPT-2, Llama, Qwen 2 and 3, GLM-4, run as encoders of whole rows. Knows no rows and no adapters.

A prefix goes in behind the rotation and the normalisation of keys, and grouped heads repeat it as they do own keys:
attention is the only part that sees it.
"""

from __future__ import annotations

from torch import Tensor

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.families.stock import Stock


class Decoder(Stock):
    """Rotary positions: there is no embedding layer behind the word vectors."""

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        return words

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        # No cache: one kept from an earlier pack would hand its keys to the rows of this one.
        return self._run(words, positions, pack, use_cache=False)


class Gpt2(Decoder):
    """Learned positions, added to the word vectors."""

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = words + self.model.wpe(positions)  # type: ignore[operator]
        return embedded
