"""Packed attention as one padded, masked call a layer. Knows packs and prefixes; no models, tasks or HTTP.

On a GPU a call costs the same whether it computes one short row or hundreds, so what it pads is cheaper than a call for
each row. It has gradients: training on a GPU uses it, and serving where the kernels of `gpu/` are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack_adapters.attention import AttentionCall, PackLayout, StatesPair
from prefixrack_adapters.transfer import to_device


@dataclass(frozen=True, slots=True)
class Padding:
    """Where the tokens of a pack lie in a batch padded to its longest row.

    tokens [num_rows, longest_row]: index of each slot's token in the pack (a padding slot repeats the row's last one);
    slots [T]: index of each token's slot in the flattened batch; row_lens [num_rows].
    """

    tokens: Tensor
    slots: Tensor
    row_lens: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Padding:
        row_lens = np.array(lengths)
        starts = row_lens.cumsum() - row_lens
        slot = np.arange(row_lens.max())
        tokens = starts[:, None] + np.minimum(slot[None, :], row_lens[:, None] - 1)
        slots = (slot[None, :] < row_lens[:, None]).ravel().nonzero()[0]
        return cls(to_device(tokens, device), to_device(slots, device), to_device(row_lens, device))

    def padded(self, states: Tensor) -> Tensor:
        """[1, heads, T, head_dim] → [num_rows, heads, longest_row, head_dim]."""
        num_rows, longest = self.tokens.shape
        batch = states[0].transpose(0, 1).index_select(0, self.tokens.flatten())
        padded: Tensor = batch.unflatten(0, (num_rows, longest)).transpose(1, 2)
        return padded

    def packed(self, batch: Tensor) -> Tensor:
        """[num_rows, heads, longest_row, head_dim] → [1, T, heads, head_dim]."""
        packed: Tensor = batch.transpose(1, 2).flatten(0, 1).index_select(0, self.slots)
        return packed[None]


@dataclass(frozen=True, slots=True)
class PrefixStack:
    """The different prefixes of a pack in one tensor, and which of them each row sees: few calls, however many.

    layers: of each layer [num_prefixes, 2, kv_heads, longest_prefix, head_dim], shorter ones filled up with 0; rows
    [num_rows]: index of each row's prefix; prefix_lens: of each row.
    """

    layers: Sequence[Tensor]
    rows: Tensor
    prefix_lens: tuple[int, ...]

    @classmethod
    def of(cls, pack: PackLayout) -> PrefixStack | None:
        """None where the pack has one prefix for all rows, or none, or such as differ in more than length by layer."""
        distinct = {id(prefix): prefix for prefix in pack.prefixes}
        tensors = [prefix for prefix in distinct.values() if isinstance(prefix, Tensor)]
        others = len(distinct) - len(tensors) - (id(None) in distinct)
        if others or not tensors or len(distinct) == 1 or pack.has_gates:
            return None
        empty = tensors[0][..., :0, :]
        states = [prefix if isinstance(prefix, Tensor) else empty for prefix in distinct.values()]
        places = {key: place for place, key in enumerate(distinct)}
        rows = np.array([places[id(prefix)] for prefix in pack.prefixes])
        prefix_lens = tuple(states[place].shape[-2] for place in rows)
        longest = max(prefix_lens)
        padded = [F.pad(one, (0, 0, 0, longest - one.shape[-2])) if one.shape[-2] < longest else one for one in states]
        layers = torch.stack(padded, dim=1).unbind(0)
        return cls(layers, to_device(rows, tensors[0].device), prefix_lens)

    def keys_and_values(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of every row, [num_rows, kv_heads, longest_prefix, head_dim]; gradients add up in the prefixes' own dtype."""
        keys, values = self.layers[layer].index_select(0, self.rows).to(dtype).unbind(1)
        return keys, values


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What all layers share for one pack."""

    padding: Padding
    stack: PrefixStack | None
    masks: dict[tuple[object, ...], Tensor | None]
    choices: dict[tuple[int, ...], Tensor]  # index tensors of `_stacked`


class PaddedAttention:
    """One fused attention call a layer for the whole pack, prefixes and rows padded to the longest, under a mask."""

    name = "padded"
    supports_backward = True

    def __init__(self) -> None:
        self._arrangements: WeakKeyDictionary[PackLayout, Arrangement] = WeakKeyDictionary()

    def attend(self, call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, pack: PackLayout) -> Tensor:
        if pack not in self._arrangements:
            padding = Padding.of(pack.lengths, query.device)
            self._arrangements[pack] = Arrangement(padding, PrefixStack.of(pack), {}, {})
        arranged = self._arrangements[pack]
        padding = arranged.padding
        prefixes, prefix_lens = _prefixes(call.layer, key, pack, arranged)
        seen_keys, seen_values = (
            _behind_prefixes(padding.padded(states), of_rows)
            for states, of_rows in zip((key, value), prefixes, strict=True)
        )
        output = F.scaled_dot_product_attention(
            padding.padded(query),
            seen_keys,
            seen_values,
            attn_mask=_shared_mask(call, pack, arranged, prefix_lens),
            dropout_p=0.0 if query.device.type == "cpu" else call.dropout,
            scale=call.scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        return padding.packed(output)


def _prefixes(
    layer: int, like: Tensor, pack: PackLayout, arranged: Arrangement
) -> tuple[tuple[Tensor | None, Tensor | None], tuple[int, ...]]:
    """Keys and values of every row's prefix in a layer, padded to the longest, and how long each is."""
    if arranged.stack is not None:
        return arranged.stack.keys_and_values(layer, like.dtype), arranged.stack.prefix_lens
    pairs = pack.prefix_states(layer, like.dtype)
    prefix_lens = tuple(0 if pair is None else pair[0].shape[-2] for pair in pairs)
    keys, values = (_stacked(pairs, like, part, arranged.choices) for part in range(2))
    return (keys, values), prefix_lens


def _shared_mask(
    call: AttentionCall, pack: PackLayout, arranged: Arrangement, prefix_lens: tuple[int, ...]
) -> Tensor | None:
    key = (prefix_lens, call.is_causal, call.window)
    if key not in arranged.masks:
        arranged.masks[key] = _mask(prefix_lens, arranged.padding, pack.context_lens, call)
    return arranged.masks[key]


def _behind_prefixes(own: Tensor, prefixes: Tensor | None) -> Tensor:
    return own if prefixes is None else torch.cat((prefixes, own), dim=2)


def _stacked(
    prefixes: Sequence[StatesPair | None], like: Tensor, part: int, choices: dict[tuple[int, ...], Tensor]
) -> Tensor | None:
    """Keys (part 0) or values (1) of every row's prefix, [num_rows, kv_heads, longest_prefix, head_dim]; rest is 0."""
    states = [None if pair is None else pair[part] for pair in prefixes]
    longest = max(0 if one is None else one.shape[-2] for one in states)
    if not longest:
        return None
    if all(one is states[0] for one in states):
        assert states[0] is not None, "a prefix that is longest is there"
        return states[0].expand(len(states), *states[0].shape)
    nothing = like.new_zeros(like.shape[1], 0, like.shape[-1])
    places: dict[int, int] = {}
    distinct = tuple(places.setdefault(id(one), len(places)) for one in states)
    once = dict(zip(distinct, (nothing if one is None else one for one in states), strict=True))
    padded = [F.pad(one, (0, 0, 0, longest - one.shape[-2])) for _, one in sorted(once.items())]
    if distinct not in choices:
        choices[distinct] = to_device(np.array(distinct), like.device)
    return torch.stack(padded).index_select(0, choices[distinct])


def _mask(
    prefix_lens: Sequence[int], padding: Padding, context_lens: Sequence[int | None], call: AttentionCall
) -> Tensor | None:
    """[num_rows, 1, 1 or longest_row, longest_prefix + longest_row], True where a token is seen; None: all is seen.

    A padding slot's query sees what its row's tokens see, or itself: no query sees nothing, whose softmax is undefined.
    """
    device = padding.row_lens.device
    longest_prefix, longest = max(prefix_lens), padding.tokens.shape[1]
    has_context = any(length is not None for length in context_lens)
    is_even = len(set(prefix_lens)) == 1 and padding.slots.numel() == padding.tokens.numel()
    if is_even and not (has_context or call.is_causal or call.window is not None):
        return None
    slot = torch.arange(longest, device=device)
    own = (slot[None, :] < padding.row_lens[:, None])[:, None, :]  # [num_rows, 1, longest]
    distance = slot[:, None] - slot[None, :]  # query - key
    if has_context:
        everything = [longest if length is None else length for length in context_lens]
        context = to_device(np.array(everything), device)[:, None, None]
        own = own & ((distance >= 0) | (slot[None, None, :] < context))
    elif call.is_causal:
        own = own & (distance >= 0)
    if call.window is not None:
        own = own & (distance.abs() < call.window)
    if own.shape[1] > 1:
        own = own | (distance == 0)
    prefix_slot = torch.arange(longest_prefix, device=device)
    prefix = prefix_slot[None, :] < to_device(np.array(prefix_lens), device)[:, None]
    whole = torch.cat((prefix[:, None, :].expand(-1, own.shape[1], -1), own), dim=2)
    return whole[:, None]
