"""A prefix that starts as what the backbone itself computes for words. Knows backbones and rows; no trained module.

Source: Li and Liang (arXiv 2101.00190), section 7.4: prefixes that start from activations of real words train better
on few examples than random ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.attention import AttentionCall, PackLayout, RowLoop
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.rows import Row


class KeysAndValues(RowLoop):
    """The usual attention, which also keeps every layer's keys and values [2, num_kv_heads, T, head_dim]."""

    def __init__(self) -> None:
        super().__init__()
        self.of_layers: dict[int, Tensor] = {}

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        self.of_layers[call.layer] = torch.stack((key[0], value[0]))
        return super().attend(call, query, key, value, pack)


@torch.no_grad()
def word_activations(backbone: Backbone, prefix_len: int, layers: Sequence[int], seed: int) -> Tensor:
    """[len(layers), 2, prefix_len, num_kv_heads, head_dim], float32, of words drawn from the vocabulary.

    Raises InvalidRequest for backbones that compute attention in their own code (DeBERTa).
    """
    spec = backbone.spec
    drawn = torch.randint(spec.vocab_size, (prefix_len,), generator=torch.Generator().manual_seed(seed))
    row = Row(tuple(drawn.tolist()), (0,) * prefix_len, spec.base_position)
    backbone.check(row)
    seen, usual = KeysAndValues(), backbone.attention
    backbone.attention = seen
    try:
        backbone.hidden_states([row], [None])
    finally:
        backbone.attention = usual
    if not seen.of_layers:
        raise InvalidRequest(
            f"--prefix-init words needs the keys and values of a {spec.architecture!r} backbone, whose attention does "
            "not hand them out: use --prefix-init normal"
        )
    return torch.stack([seen.of_layers[layer] for layer in layers]).transpose(2, 3).float()
