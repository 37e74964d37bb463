"""What is trained in front of a row: deep prefixes, raw or through an MLP (reparameterization), and soft prompts.

Sources: THUDM/P-tuning-v2, `model/prefix_encoder.py`, for the deep prefix, and `get_prompt` of its models for where
dropout goes; Lester et al. (arXiv 2104.08691) for the soft prompt, which starts from words of the vocabulary. The MLP
is run once when a bundle is made; serving never sees it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.manifest import PrefixSpec


class PrefixEncoder(nn.Module):
    """forward() → [len(layers), 2, num_kv_heads, prefix_len, head_dim], float32: all of it, before dropout."""

    def __init__(self, spec: PrefixSpec, hidden_size: int, mlp_size: int | None, dropout: float) -> None:
        super().__init__()
        self.layers = list(range(spec.num_layers)) if spec.layers is None else spec.layers
        self.num_layers = spec.num_layers
        self.shape = (spec.prefix_len, len(self.layers), 2, spec.num_kv_heads, spec.head_dim)
        width = 2 * len(self.layers) * spec.num_kv_heads * spec.head_dim
        self.embedding = nn.Embedding(spec.prefix_len, width if mlp_size is None else hidden_size)
        self.mlp = (
            nn.Identity()
            if mlp_size is None
            else nn.Sequential(nn.Linear(hidden_size, mlp_size), nn.Tanh(), nn.Linear(mlp_size, width))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self) -> Tensor:
        flat: Tensor = self.mlp(self.embedding.weight)  # [prefix_len, 2 * layers * heads * head_dim]
        return flat.view(self.shape).permute(1, 2, 3, 0, 4)

    def for_rows(self, states: Tensor, places: Sequence[int], num_rows: int) -> list[Prefix]:
        """What each of some rows of a batch sees of forward()'s states. `places`: which of its `num_rows` rows.

        In training dropout takes other values from every row, as in the original. What a row loses is drawn for its
        place: it does not depend on which rows come with it.
        """
        if not self.training or not self.dropout.p:
            return [self._by_layer(states)] * len(places)
        wanted = set(places)
        drawn = ((place, self.dropout(states)) for place in range(num_rows))
        seen = {place: self._by_layer(dropped) for place, dropped in drawn if place in wanted}
        return [seen[place] for place in places]

    def _by_layer(self, states: Tensor) -> Prefix:
        """As attention takes them: layers that are left out are None."""
        if len(self.layers) == self.num_layers:
            return states
        of_layers = dict(zip(self.layers, states.unbind(0), strict=True))
        return [of_layers.get(layer) for layer in range(self.num_layers)]

    @torch.no_grad()
    def folded(self) -> Tensor:
        """What a bundle stores: [len(layers), 2, prefix_len, num_kv_heads, head_dim], no dropout."""
        flat: Tensor = self.mlp(self.embedding.weight)
        return flat.view(self.shape).permute(1, 2, 0, 3, 4).contiguous()

    @torch.no_grad()
    def start_from(self, folded: Tensor) -> None:
        """Take over a bundle's prefix of the same shape; only without an MLP, which could not give it back."""
        self.embedding.weight.copy_(folded.permute(2, 0, 1, 3, 4).reshape(self.embedding.weight.shape))


class PromptEncoder(nn.Module):
    """forward() → the soft prompt [prefix_len, embedding_size], float32."""

    def __init__(self, prefix_len: int, words: Tensor) -> None:
        """`words` [vocab_size, embedding_size]: the prompt starts as words drawn from it."""
        super().__init__()
        drawn = torch.randint(len(words), (prefix_len,))
        self.vectors = nn.Parameter(words.detach()[drawn.to(words.device)].float().clone())

    def forward(self) -> Tensor:
        return self.vectors

    @torch.no_grad()
    def folded(self) -> Tensor:
        return self.vectors
