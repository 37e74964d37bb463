"""One layer of BERT's form with weights in int8, in inference on a CPU. Knows no transformers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefixrack_adapters.attention import AttentionCall, PackLayout, attend_side_by_side
from prefixrack_adapters.families.fused_linear import Activation
from prefixrack_adapters.families.int8_linear import Int8Linear, check_products
from prefixrack_adapters.native.norm import NativeNorm, compiled_norm

# Tokens that go through a half of the layer at once: their sums of products, in 32 bits, stay in the cache.
BLOCK_TOKENS: Final = 512


class Int8Layer:
    """Attention and normalisation in `dtype`, the four products in int8."""

    compiles_sizes: Final = True  # oneDNN's products of int8 are compiled for each number of tokens

    def __init__(self, layer: Any, index: int, *, activation: Activation, dtype: torch.dtype) -> None:
        check_products()
        attention = layer.attention.self
        self._head_dim = attention.attention_head_size
        self._call = AttentionCall(index, self._head_dim**-0.5)
        self._activation = activation
        self._inputs = Int8Linear([attention.query, attention.key, attention.value])
        self._output = Int8Linear([layer.attention.output.dense])
        self._up = Int8Linear([layer.intermediate.dense])
        self._down = Int8Linear([layer.output.dense])
        self._norms = [_Norm(norm.to(dtype)) for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm)]

    def __call__(self, hidden: Tensor, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        if pack.has_gates:
            pack.inputs = hidden
        states = hidden.new_empty(len(hidden), 3 * hidden.shape[1])
        for block, out in _in_blocks(hidden, states):
            self._inputs(self._inputs.quantise(block), out)
        attended = attend_side_by_side(self._call, states, self._head_dim, pack)
        result = torch.empty_like(hidden)
        for parts in _in_blocks(attended, hidden, result):
            self._behind_attention(*parts)
        return result

    def _behind_attention(self, attended: Tensor, hidden: Tensor, out: Tensor) -> None:
        after_attention, after_layer = self._norms
        middle = self._output(self._output.quantise(attended), torch.empty_like(hidden))
        after_attention(middle, hidden)
        wide = self._up.activated(self._up.quantise(middle), self._activation)
        after_layer(self._down(wide, out), middle)


def _in_blocks(*parts: Tensor) -> Iterable[tuple[Tensor, ...]]:
    return zip(*(part.split(BLOCK_TOKENS) for part in parts), strict=True)


class _Norm:
    """LayerNorm(states + residual), in the place of `states`; in C where that can be had."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._norm = norm
        self._kernel = compiled_norm() if NativeNorm.takes(norm) else None

    def __call__(self, states: Tensor, residual: Tensor) -> None:
        if self._kernel is not None:
            self._kernel(states, residual, self._norm)
            return
        norm = self._norm
        summed = states.add_(residual)
        states.copy_(F.layer_norm(summed, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
