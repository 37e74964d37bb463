"""The trained prefix: raw vectors, or an MLP over embeddings (reparameterization), as P-Tuning v2 has them.

Source: THUDM/P-tuning-v2, `model/prefix_encoder.py`. The MLP is run once when a bundle is made; serving never sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prefixrack_adapters.spec import BackboneSpec


class PrefixEncoder(nn.Module):
    """forward() → [num_layers, 2, num_kv_heads, prefix_len, head_dim], float32, after dropout in training."""

    def __init__(self, spec: BackboneSpec, prefix_len: int, mlp_size: int | None, dropout: float) -> None:
        super().__init__()
        self.shape = (prefix_len, spec.num_layers, 2, spec.num_kv_heads, spec.head_dim)
        width = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
        self.embedding = nn.Embedding(prefix_len, width if mlp_size is None else spec.hidden_size)
        self.mlp = (
            nn.Identity()
            if mlp_size is None
            else nn.Sequential(nn.Linear(spec.hidden_size, mlp_size), nn.Tanh(), nn.Linear(mlp_size, width))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self) -> Tensor:
        flat: Tensor = self.dropout(self.mlp(self.embedding.weight))  # [prefix_len, 2 * layers * heads * head_dim]
        return flat.view(self.shape).permute(1, 2, 3, 0, 4)

    @torch.no_grad()
    def folded(self) -> Tensor:
        """What a bundle stores: [num_layers, 2, prefix_len, num_kv_heads, head_dim], no dropout."""
        flat: Tensor = self.mlp(self.embedding.weight)
        return flat.view(self.shape).permute(1, 2, 0, 3, 4).contiguous()
