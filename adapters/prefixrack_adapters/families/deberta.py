"""DeBERTa: disentangled attention of packed rows on the stock model's weights. Knows no tasks and no adapters.

Stock transformers computes this attention inside its modules and never asks the attention interface, so the layers are
walked here. Token i weighs token j of its row by

    (q_i · k_j  +  q_i · K[d]  +  k_j · Q[d]) / sqrt(head_dim * (1 + number of position terms))

where d stands for the distance i - j, K and Q for projected embeddings of distances (He et al., arXiv 2006.03654,
section 3.1). A prefix key has no place in the row: it gets the first term only, divided alike, and distances never
count it, as P-Tuning v2 trained it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.attention import AttendsByDistance, AttentionCall, DistanceTerms, PackLayout, with_prefixes
from prefixrack_adapters.families.stock import Encoder, load_stock_model


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
    """The embeddings of all distances in a pack, [num_embeddings, hidden_size], and which of them a distance has.

    `places` is [2 * longest_row - 1], rising: the place of distance d stands at d + longest_row - 1.
    """

    def __init__(self, embeddings: Tensor, places: Tensor) -> None:
        self.embeddings = embeddings
        self.places = places
        self._between: dict[int, Tensor] = {}

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

    def of_pack(self, query: Tensor, key: Tensor, distances: Distances) -> DistanceTerms:
        """Of all rows at once, for a backend with a kernel: query and key [num_heads, T, head_dim]."""
        to_all = None if self.keys is None else query @ self.keys.transpose(-1, -2)
        from_all = None if self.queries is None else key @ self.queries.transpose(-1, -2)
        return DistanceTerms(to_all, from_all, distances.places)

    def scores(self, query: Tensor, key: Tensor, places: Tensor) -> Tensor:
        """[num_rows, num_heads, row_len, row_len] of query and key [num_rows, num_heads, row_len, head_dim]."""
        shape = (*query.shape[:2], *places.shape)
        scores = query.new_zeros(())
        if self.keys is not None:
            to_all = query @ self.keys.transpose(-1, -2)  # [num_rows, num_heads, row_len, num_embeddings]
            scores = scores + to_all.gather(-1, places.expand(shape))
        if self.queries is not None:
            from_all = key @ self.queries.transpose(-1, -2)
            scores = scores + from_all.gather(-1, places.T.expand(shape)).transpose(-1, -2)
        return scores.expand(shape)


class Deberta(Encoder):
    """Version 1. Its relative positions reach up to `max_relative_positions`; what is farther counts as that far."""

    looks_at_longest_row = True  # for the distances that its tokens can have

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # Kept: while a pass is recorded, nothing may be copied from the CPU.
        self._places: dict[tuple[int, torch.device], Places] = {}

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        # Version 1 fixes the dtype of its query and value biases, so loading alone leaves them in float32.
        return cls(load_stock_model(folder, dtype, "eager").to(dtype))

    @property
    def is_recordable(self) -> bool:
        """A convolution (some of version 2) looks at every row's length, and so does attention without distances."""
        return bool(self.encoder.relative_attention) and getattr(self.encoder, "conv", None) is None

    @property
    def encoder(self) -> Any:
        return self.model.encoder

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        embedded = states = self.embed(words, segments, positions)
        distances = self._distances(max(pack.lengths), words.device)
        for index, layer in enumerate(self.encoder.layer):
            attended = self._attend(index, layer.attention.self, states, distances, pack)
            attended = layer.attention.output(attended, states)
            states = layer.output(layer.intermediate(attended), attended)
            if index == 0:
                states = self._after_first_layer(embedded, states, pack)
        return states

    def _attend(self, layer: int, module: Any, states: Tensor, distances: Distances | None, pack: PackLayout) -> Tensor:
        """Attention of one layer, [T, hidden_size]. `module` is the stock self-attention, never called itself."""
        pack.inputs = states
        num_terms = 1 + len(module.pos_att_type)
        scale = (module.attention_head_size * num_terms) ** -0.5
        query, key, value = self._project(module, states)
        query = query * scale
        terms = PositionTerms(None, None)
        if distances is not None:
            terms = self._position_terms(module, module.pos_dropout(distances.embeddings), scale)
        if distances is not None and isinstance(pack.backend, AttendsByDistance):
            of_pack = terms.of_pack(query, key, distances)
            q, k, v = (heads_side_by_side(part)[None] for part in (query, key, value))
            attended = pack.backend.attend_by_distance(AttentionCall(layer, 1.0), q, k, v, pack, of_pack)
            if attended is not None:
                return attended[0].flatten(1)
        runs = pack.runs(layer)
        sizes = [run.num_tokens for run in runs]
        seen = with_prefixes(layer, key, value, pack)
        outputs = []
        for run, *parts in zip(runs, query.split(sizes, dim=1), key.split(sizes, dim=1), *seen, strict=True):
            own_query, own_key, seen_key, seen_value = (run.batched(part) for part in parts)
            scores = own_query @ seen_key.transpose(-1, -2)
            if distances is not None:
                among_own = terms.scores(own_query, own_key, distances.between(run.row_len))
                scores = scores + F.pad(among_own, (run.prefix_len, 0))
            weights = module.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype))
            outputs.append(run.end_to_end((weights @ seen_value).transpose(1, 2)))
        return torch.cat(outputs, dim=1)[0].flatten(1)

    def _distances(self, longest_row: int, device: torch.device) -> Distances | None:
        """None for a model without relative positions. Embeddings that no distance in the pack has are left out."""
        embeddings = self.encoder.get_rel_embedding()
        if embeddings is None:
            return None
        key = (longest_row, device)
        if key not in self._places:
            self._places[key] = self._places_of(longest_row, len(embeddings) // 2, device)
        first, last, places = self._places[key]
        return Distances(embeddings[first : last + 1], places)

    def _places_of(self, longest_row: int, reach: int, device: torch.device) -> Places:
        """On the CPU whatever the device: in a last bit its logarithms put a distance on the other side of a bucket's
        border, and reading the ends back from a GPU would wait for it in every pack."""
        places = (self._steps(torch.arange(1 - longest_row, longest_row)) + reach).clamp(0, 2 * reach - 1)
        first, last = int(places[0]), int(places[-1])
        return Places(first, last, (places - first).to(device))

    def _steps(self, distances: Tensor) -> Tensor:
        """The number of embeddings between a distance's own and that of distance 0."""
        return distances

    def _project(self, module: Any, states: Tensor) -> Projected:
        """The key has no bias. `in_proj` holds query, key and value of head 0, then of head 1, and so on."""
        heads = module.num_attention_heads
        query, key, value = module.in_proj(states).unflatten(-1, (heads, -1)).transpose(0, 1).chunk(3, dim=-1)
        query_bias, value_bias = (bias.view(heads, 1, -1) for bias in (module.q_bias, module.v_bias))
        return Projected(query + query_bias, key, value + value_bias)

    def _position_terms(self, module: Any, embeddings: Tensor, scale: float) -> PositionTerms:
        """The queries come scaled: the keys of the row, which they meet, are not."""
        keys = queries = None
        if "c2p" in module.pos_att_type:
            keys = by_head(module.pos_proj, embeddings, module)
        if "p2c" in module.pos_att_type:
            queries = by_head(module.pos_q_proj, embeddings, module) * scale
        return PositionTerms(keys, queries)

    def _after_first_layer(self, embedded: Tensor, states: Tensor, pack: PackLayout) -> Tensor:
        return states


def heads_side_by_side(states: Tensor) -> Tensor:
    """[num_heads, T, head_dim], in memory with a token's heads one after the other: copied if need be."""
    return states.transpose(0, 1).contiguous().transpose(0, 1)


def by_head(projection: nn.Module, states: Tensor, module: Any) -> Tensor:
    """[n, hidden_size] → [num_heads, n, head_dim]."""
    projected: Tensor = projection(states)
    heads: Tensor = projected.unflatten(-1, (module.num_attention_heads, -1))
    return heads.transpose(0, 1)
