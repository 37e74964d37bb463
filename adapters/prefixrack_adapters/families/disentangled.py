"""Disentangled attention of packed rows (He et al., arXiv 2006.03654, section 3.1). Knows no models and no adapters.

Token i weighs token j of its row by

    (q_i · k_j  +  q_i · K[d]  +  k_j · Q[d]) / sqrt(head_dim * (1 + number of position terms))

where d stands for the distance i - j, K and Q for projected embeddings of distances. A prefix key has no place in the
row: it gets the first term only, divided alike, and distances never count it, as P-Tuning v2 trained it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack_adapters.attention import AttendsByDistance, AttentionCall, DistanceTerms, PackLayout, with_prefixes


class Projected(NamedTuple):
    """[num_heads, T, head_dim] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class Places(NamedTuple):
    """The first and the last embedding that distances in a pack have, and each distance's, counted from the first."""

    first: int
    last: int
    of_distances: Tensor


class Distances:
    """Which embedding each distance in a pack has: places [2 * longest_row - 1], rising, counted from `first`. That of
    distance d stands at d + longest_row - 1."""

    def __init__(self, places: Places) -> None:
        self.first, self.last, self.places = places
        self._between: dict[int, Tensor] = {}

    def of(self, embeddings: Tensor) -> Tensor:
        """Those that distances in the pack have, of all: [..., num_embeddings, width]."""
        return embeddings[..., self.first : self.last + 1, :]

    def between(self, row_len: int) -> Tensor:
        """[row_len, row_len]: the place of the distance from query i to key j. Made once for each length."""
        if row_len not in self._between:
            index = torch.arange(row_len, device=self.places.device)
            self._between[row_len] = self.places[index[:, None] - index[None, :] + len(self.places) // 2]
        return self._between[row_len]


class PositionTerms(NamedTuple):
    """Projected distances of one layer, [num_heads, num_embeddings, head_dim]; None for a term the model lacks."""

    keys: Tensor | None
    queries: Tensor | None

    def of(self, distances: Distances) -> PositionTerms:
        """Those of a pack, of all."""
        return PositionTerms(*(None if part is None else distances.of(part) for part in self))

    def of_pack(self, query: Tensor, key: Tensor, distances: Distances) -> DistanceTerms:
        """Of all rows at once, for a backend with a kernel: query and key [num_heads, T, head_dim]."""
        to_all = None if self.keys is None else query @ self.keys.transpose(-1, -2)
        from_all = None if self.queries is None else key @ self.queries.transpose(-1, -2)
        return DistanceTerms(to_all, from_all, distances.places)

    def scores(self, query: Tensor, key: Tensor, places: Tensor, scale: float) -> Tensor:
        """[num_rows, num_heads, row_len, row_len] of query, which comes scaled, and key, which does not: both
        [num_rows, num_heads, row_len, head_dim]."""
        shape = (*query.shape[:2], *places.shape)
        scores = query.new_zeros(())
        if self.keys is not None:
            to_all = query @ self.keys.transpose(-1, -2)  # [num_rows, num_heads, row_len, num_embeddings]
            scores = scores + to_all.gather(-1, places.expand(shape))
        if self.queries is not None:
            from_all = key @ (self.queries * scale).transpose(-1, -2)
            scores = scores + from_all.gather(-1, places.T.expand(shape)).transpose(-1, -2)
        return scores.expand(shape)


def attend(
    call: AttentionCall,
    projected: Projected,
    terms: PositionTerms,
    distances: Distances | None,
    pack: PackLayout,
    dropout: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """[T, hidden_size]. `terms` are those of the pack's distances; without distances there are none."""
    query, key, value = projected
    if distances is not None and isinstance(pack.backend, AttendsByDistance):
        of_pack = terms.of_pack(query, key, distances)
        q, k, v = (heads_side_by_side(part)[None] for part in projected)
        attended = pack.backend.attend_by_distance(call, q, k, v, pack, of_pack)
        if attended is not None:
            return attended[0].flatten(1)
    query = query * call.scaling
    runs = pack.runs(call.layer)
    sizes = [run.num_tokens for run in runs]
    seen = with_prefixes(call.layer, key, value, pack)
    outputs = []
    for run, *parts in zip(runs, query.split(sizes, dim=1), key.split(sizes, dim=1), *seen, strict=True):
        own_query, own_key, seen_key, seen_value = (run.batched(part) for part in parts)
        scores = own_query @ seen_key.transpose(-1, -2)
        if distances is not None:
            among_own = terms.scores(own_query, own_key, distances.between(run.row_len), call.scaling)
            scores = scores + F.pad(among_own, (run.prefix_len, 0))
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        weights = weights if dropout is None else dropout(weights)
        outputs.append(run.end_to_end((weights @ seen_value).transpose(1, 2)))
    return torch.cat(outputs, dim=1)[0].flatten(1)


def heads_side_by_side(states: Tensor) -> Tensor:
    """[num_heads, T, head_dim], in memory with a token's heads one after the other: copied if need be."""
    _, _, head_dim = states.shape
    if states.stride(0) == head_dim and states.stride(2) == 1:
        return states
    return states.transpose(0, 1).contiguous().transpose(0, 1)
