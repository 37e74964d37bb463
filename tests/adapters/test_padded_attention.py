"""Padded attention against the row loop: any mix of lengths, prefixes, masks and grouped heads; gradients too."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prefixrack_adapters.attention import AttentionBackend, AttentionCall, PackLayout, Prefix, RowLoop
from prefixrack_adapters.gates import Gate, GatedPrefix
from prefixrack_adapters.padded_attention import PaddedAttention

NUM_LAYERS, NUM_HEADS, HEAD_DIM = 2, 4, 8


def random_states(generator: torch.Generator, num_tokens: int, num_kv_heads: int = NUM_HEADS) -> list[Tensor]:
    """query, key and value [1, heads, T, head_dim]."""
    heads = (NUM_HEADS, num_kv_heads, num_kv_heads)
    return [torch.randn(1, num, num_tokens, HEAD_DIM, generator=generator) for num in heads]


def random_prefix(generator: torch.Generator, prefix_len: int, num_kv_heads: int = NUM_HEADS) -> Tensor | None:
    shape = (NUM_LAYERS, 2, num_kv_heads, prefix_len, HEAD_DIM)
    return torch.randn(*shape, generator=generator) if prefix_len else None


def backends() -> tuple[AttentionBackend, AttentionBackend]:
    return PaddedAttention(), RowLoop()


def both(
    call: AttentionCall,
    parts: Sequence[Tensor],
    lengths: list[int],
    prefixes: Sequence[Prefix | GatedPrefix | None],
    context_lens: Sequence[int | None] | None = None,
    inputs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    outputs = []
    query, key, value = parts
    for backend in backends():
        pack = PackLayout(lengths, prefixes, backend, context_lens)
        pack.inputs = inputs
        outputs.append(backend.attend(call, query, key, value, pack))
    return outputs[0], outputs[1]


@settings(max_examples=80)
@given(
    rows=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 20), st.integers(0, 40)), min_size=1, max_size=8),
    mask=st.sampled_from(["none", "causal", "window", "causal and window", "context"]),
    num_kv_heads=st.sampled_from([NUM_HEADS, 2, 1]),
    layer=st.integers(0, NUM_LAYERS - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_pack_equals_the_row_loop(
    rows: list[tuple[int, int, int]], mask: str, num_kv_heads: int, layer: int, seed: int
) -> None:
    """Row (n, p, c): n tokens behind a prefix of p vectors, c of them context where there is one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length for length, _, _ in rows]
    prefixes = [random_prefix(generator, prefix_len, num_kv_heads) for _, prefix_len, _ in rows]
    context_lens = [min(length, context) or None for length, _, context in rows] if mask == "context" else None
    call = AttentionCall(layer, 0.3, is_causal="causal" in mask, window=5 if "window" in mask else None)
    parts = random_states(generator, sum(lengths), num_kv_heads)
    seen, wanted = both(call, parts, lengths, prefixes, context_lens)
    torch.testing.assert_close(seen, wanted, atol=2e-6, rtol=1e-5)


def test_layers_one_by_one_of_which_some_have_no_prefix() -> None:
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(2, NUM_HEADS, 5, HEAD_DIM, generator=generator)
    parts = random_states(generator, 12)
    for layer in range(NUM_LAYERS):
        seen, wanted = both(AttentionCall(layer, 1.0), parts, [8, 4], [[None, own], None])
        torch.testing.assert_close(seen, wanted, atol=2e-6, rtol=1e-5)


def test_gates_scale_each_rows_own_prefix() -> None:
    generator = torch.Generator().manual_seed(4)
    layers = [torch.randn(2, NUM_HEADS, 3, HEAD_DIM, generator=generator) for _ in range(NUM_LAYERS)]
    width = NUM_HEADS * HEAD_DIM
    gate = Gate(torch.randn(2, width, generator=generator), torch.randn(2, generator=generator))
    gated = GatedPrefix(layers, [gate] * NUM_LAYERS)
    inputs = torch.randn(12, width, generator=generator)
    parts = random_states(generator, 12)
    seen, wanted = both(AttentionCall(1, 0.3), parts, [8, 4], [gated, gated], inputs=inputs)
    torch.testing.assert_close(seen, wanted, atol=2e-6, rtol=1e-5)
    alone, _ = both(AttentionCall(1, 0.3), parts, [8, 4], [layers, layers], inputs=inputs)
    assert not torch.allclose(alone, seen, atol=1e-3)


@pytest.mark.parametrize("is_shared", [True, False])
def test_gradients_equal_the_row_loops(is_shared: bool) -> None:
    """Of the prefix, shared by all rows as in training or each row's own, and of what the layers below hand up."""
    generator = torch.Generator().manual_seed(5)
    lengths = [3, 3, 9]
    prefixes = [random_prefix(generator, length) for length in (6, 2, 4)]
    weights = torch.randn(1, sum(lengths), NUM_HEADS, HEAD_DIM, generator=generator)
    parts = random_states(generator, sum(lengths))
    gradients = []
    for backend in backends():
        leaves = [one.clone().requires_grad_() for one in (*parts, *(one for one in prefixes if one is not None))]
        query, key, value, first, second, third = leaves
        pack = PackLayout(lengths, [first] * 3 if is_shared else [first, second, third], backend)
        (backend.attend(AttentionCall(0, 0.3), query, key, value, pack) * weights).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    num_leaves = 4 if is_shared else 6
    for seen, wanted in zip(*gradients, strict=True):
        num_leaves -= seen is not None
        torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)
    assert num_leaves == 0
