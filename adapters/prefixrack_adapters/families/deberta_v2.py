"""DeBERTa v2 and v3: what they change in DeBERTa's attention, and v2's convolution. Knows no tasks and no adapters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.families.deberta import Deberta, by_head
from prefixrack_adapters.families.disentangled import PositionTerms, Projected


class DebertaV2(Deberta):
    """Separate projections with biases, far distances in logarithmic buckets, a convolution beside the first layer."""

    def _steps(self, distances: Tensor) -> Tensor:
        num_buckets = self.encoder.position_buckets
        if num_buckets <= 0:
            return distances
        return log_buckets(distances, num_buckets, self.encoder.max_relative_positions)

    def _project(self, module: Any, states: Tensor) -> Projected:
        projections = (module.query_proj, module.key_proj, module.value_proj)
        return Projected(*(by_head(projection, states, module) for projection in projections))

    def _linears(self, module: Any) -> list[nn.Linear]:
        return [module.query_proj, module.key_proj, module.value_proj]

    def _position_terms(self, module: Any, embeddings: Tensor) -> PositionTerms:
        keys = queries = None
        is_shared = module.share_att_key
        if "c2p" in module.pos_att_type:
            keys = by_head(module.key_proj if is_shared else module.pos_key_proj, embeddings, module)
        if "p2c" in module.pos_att_type:
            queries = by_head(module.query_proj if is_shared else module.pos_query_proj, embeddings, module)
        return PositionTerms(keys, queries)

    def _after_first_layer(self, embedded: Tensor, states: Tensor, pack: PackLayout) -> Tensor:
        """Each row is convolved alone, so no row sees its neighbour and none sees padding."""
        convolution = self.encoder.conv
        if convolution is None:
            return states
        runs = pack.runs(0)
        sizes = [run.num_tokens for run in runs]
        outputs = []
        for run, *parts in zip(runs, embedded.split(sizes), states.split(sizes), strict=True):
            before, after = (part.unflatten(0, (run.num_rows, run.row_len)) for part in parts)
            is_token = before.new_ones(run.num_rows, run.row_len)
            outputs.append(convolution(before, after, is_token).flatten(0, 1))
        return torch.cat(outputs)


def log_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Distances below half of `num_buckets` stay themselves; farther ones share logarithmically growing buckets.

    In float64, as the original code had it: in float32 a distance can fall on the other side of a border.
    """
    half = num_buckets // 2
    sizes = distances.abs().clamp(min=half).double()
    growth = math.log((max_distance - 1) / half)
    far = ((sizes / half).log() / growth * (half - 1)).ceil().long() + half
    return torch.where(distances.abs() <= half, distances, far * distances.sign())
