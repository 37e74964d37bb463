"""Disentangled attention of packed rows (He et al., arXiv 2006.03654, section 3.1). Knows no models and no adapters.

Token i weighs token j of its row by

    (q_i · k_j  +  q_i · K[d]  +  k_j · Q[d]) / sqrt(head_dim * (1 + number of position terms))

where d stands for the distance i - j, K and Q for projected embeddings of distances. A prefix key has no place in the
row: it gets the first term only, divided alike, and distances never count it, as P-Tuning v2 trained it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefixrack_adapters.attention import AttendsByDistance, AttentionCall, DistanceTerms, PackLayout, with_prefixes


class Projected(NamedTuple):
    """[num_heads, T, head_dim] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class Places(NamedTuple):
    """Of distances 1 - longest_row to longest_row - 1, rising: the embedding that each has, counted from the first that
    any has. On the device, and in the machine's memory, where looking at them waits for nothing."""

    first: int
    on_device: Tensor
    here: Sequence[int]


class Among(NamedTuple):
    """The embeddings `start` to `stop` that distances in a row have, and which of these, from query i to key j."""

    start: int
    stop: int
    places: Tensor


class Distances:
    """Which embedding each distance in a pack has."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._among: dict[int, Among] = {}

    @property
    def places(self) -> Tensor:
        """[2 * longest_row - 1]: that of distance d stands at d + longest_row - 1."""
        return self._places.on_device

    def of(self, embeddings: Tensor) -> Tensor:
        """Those that distances in the pack have, of all: [..., num_embeddings, width]."""
        first, _, here = self._places
        return embeddings[..., first : first + here[-1] + 1, :]

    def among(self, row_len: int) -> Among:
        """Those of rows of this length. Made once."""
        if row_len not in self._among:
            middle = len(self._places.here) // 2
            start, stop = self._places.here[middle - row_len + 1], self._places.here[middle + row_len - 1] + 1
            index = torch.arange(row_len, device=self.places.device)
            places = self.places[index[:, None] - index[None, :] + middle] - start
            self._among[row_len] = Among(start, stop, places)
        return self._among[row_len]


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

    def with_scaled_queries(self, scale: float) -> PositionTerms:
        """For keys of tokens, which do not come scaled; the queries, which meet the other part, do."""
        return self._replace(queries=None if self.queries is None else self.queries * scale)

    def scores(self, query: Tensor, key: Tensor, among: Among) -> Tensor | None:
        """[num_heads, num_rows, row_len, row_len] of rows of one length, end to end: query and key are [num_heads,
        num_rows * row_len, head_dim]. None where the model has no terms."""
        start, stop, places = among
        to_all = from_all = None
        if self.keys is not None:
            to_all = chosen(query @ self.keys[:, start:stop].transpose(-1, -2), places)
        if self.queries is not None:
            from_all = chosen(key @ self.queries[:, start:stop].transpose(-1, -2), places.T).transpose(-1, -2)
        if to_all is None or from_all is None:
            return to_all if from_all is None else from_all
        return to_all + from_all


def with_own(scores: Tensor, among: Tensor) -> Tensor:
    """The scores with those among a row's own tokens, which stand behind its prefix, added in place."""
    scores[..., -among.shape[-1] :] += among
    return scores


def chosen(scores: Tensor, places: Tensor) -> Tensor:
    """Of each token's scores [num_heads, num_rows * row_len, n] those at its places [row_len, row_len], row by row."""
    of_rows: Tensor = scores.unflatten(1, (-1, len(places)))
    return of_rows.gather(-1, places.expand(*of_rows.shape[:-1], -1))


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
    query, terms = query * call.scaling, terms.with_scaled_queries(call.scaling)
    runs = pack.runs(call.layer)
    sizes = [run.num_tokens for run in runs]
    seen = with_prefixes(call.layer, key, value, pack)
    outputs = []
    own = zip(query.split(sizes, dim=1), key.split(sizes, dim=1), strict=True)
    for run, (own_query, own_key), *parts in zip(runs, own, *seen, strict=True):
        # Heads stay in front: products of a run are then many small ones, and nothing is repeated for each row.
        of_rows, seen_key, seen_value = (part.unflatten(1, (run.num_rows, -1)) for part in (own_query, *parts))
        scores = of_rows @ seen_key.transpose(-1, -2)
        if distances is not None:
            among = terms.scores(own_query, own_key, distances.among(run.row_len))
            scores = scores if among is None else with_own(scores, among)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
        weights = weights if dropout is None else dropout(weights)
        outputs.append((weights @ seen_value).permute(1, 2, 0, 3).flatten(0, 1))
    return torch.cat(outputs).flatten(1)


def heads_side_by_side(states: Tensor) -> Tensor:
    """[num_heads, T, head_dim], in memory with a token's heads one after the other: copied if need be."""
    _, _, head_dim = states.shape
    if states.stride(0) == head_dim and states.stride(2) == 1:
        return states
    return states.transpose(0, 1).contiguous().transpose(0, 1)
