"""The GPU's attention kernel against the row loop: on a GPU, or interpreted on the CPU where Triton is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpreted_kernels import DEVICE, kernels_or_skip
from prefixrack_adapters.attention import AttentionCall, DistanceTerms, PackLayout, Prefix, RowLoop

kernels_or_skip()

from prefixrack_adapters.gpu.attention import ALIGNMENT, PackTables, TritonAttention, unit_of  # noqa: E402 - needs them
from prefixrack_adapters.padded_attention import PaddedAttention  # noqa: E402

NUM_LAYERS, NUM_HEADS = 2, 4


def random_states(
    generator: torch.Generator, num_tokens: int, num_kv_heads: int = NUM_HEADS, head_dim: int = 32
) -> list[Tensor]:
    """query, key and value [1, heads, T, head_dim], each token's heads side by side in memory."""
    heads = (NUM_HEADS, num_kv_heads, num_kv_heads)
    parts = [torch.randn(num_tokens, num, head_dim, generator=generator) for num in heads]
    return [part.to(DEVICE).transpose(0, 1)[None] for part in parts]


def random_prefix(
    generator: torch.Generator, prefix_len: int, num_kv_heads: int = NUM_HEADS, head_dim: int = 32
) -> Tensor | None:
    shape = (NUM_LAYERS, 2, prefix_len, num_kv_heads, head_dim)
    return torch.randn(*shape, generator=generator).to(DEVICE).transpose(2, 3) if prefix_len else None


def both(
    call: AttentionCall,
    parts: Sequence[Tensor],
    lengths: list[int],
    prefixes: Sequence[Prefix | None],
    context_lens: Sequence[int | None] | None = None,
) -> tuple[Tensor, Tensor]:
    query, key, value = parts
    attention, loop = TritonAttention(), RowLoop()
    with torch.inference_mode():
        seen = attention.attend(call, query, key, value, PackLayout(lengths, prefixes, attention, context_lens))
        wanted = loop.attend(call, query, key, value, PackLayout(lengths, prefixes, loop, context_lens))
    assert seen.shape == wanted.shape
    return seen, wanted


@settings(max_examples=25)
@given(
    rows=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 40), st.integers(0, 70)), min_size=1, max_size=5),
    mask=st.sampled_from(["none", "causal", "window", "causal and window", "context"]),
    num_kv_heads=st.sampled_from([NUM_HEADS, 2, 1]),
    head_dim=st.sampled_from([16, 32, 40, 64]),
    layer=st.integers(0, NUM_LAYERS - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_pack_equals_the_row_loop(
    rows: list[tuple[int, int, int]], mask: str, num_kv_heads: int, head_dim: int, layer: int, seed: int
) -> None:
    """Row (n, p, c): n tokens behind a prefix of p vectors, c of them context where there is one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length for length, _, _ in rows]
    prefixes = [random_prefix(generator, prefix_len, num_kv_heads, head_dim) for _, prefix_len, _ in rows]
    context_lens = [min(length, context) or None for length, _, context in rows] if mask == "context" else None
    call = AttentionCall(layer, 0.2, is_causal="causal" in mask, window=5 if "window" in mask else None)
    parts = random_states(generator, sum(lengths), num_kv_heads, head_dim)
    seen, wanted = both(call, parts, lengths, prefixes, context_lens)
    torch.testing.assert_close(seen, wanted, atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("size", [30.0, 300.0])
def test_scores_far_apart_neither_overflow_nor_vanish(size: float) -> None:
    """Trained prefixes have keys many times as large as a token's."""
    generator = torch.Generator().manual_seed(1)
    prefix = random_prefix(generator, 16)
    assert prefix is not None
    parts = random_states(generator, 40)
    seen, wanted = both(AttentionCall(0, 32**-0.5), parts, [33, 7], [prefix * size, prefix * -size])
    assert seen.isfinite().all()
    assert (seen - wanted).abs().max() <= 1e-3 * wanted.abs().max()


def test_views_of_one_product_are_read_in_place() -> None:
    generator = torch.Generator().manual_seed(2)
    product = torch.randn(12, 3, NUM_HEADS, 32, generator=generator).to(DEVICE)
    parts = [part.transpose(0, 1)[None] for part in product.unbind(1)]
    seen, wanted = both(AttentionCall(0, 0.2), parts, [8, 4], [random_prefix(generator, 3), None])
    torch.testing.assert_close(seen, wanted, atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("mask", ["none", "causal and window"])
@pytest.mark.parametrize("prefix_lens", [(0, 0, 0), (19, 0, 3)])
def test_entries_of_a_table_that_no_row_uses_change_nothing(prefix_lens: tuple[int, ...], mask: str) -> None:
    """A recorded pass has them behind the real ones: rows without tokens, prefixes without vectors at address 0."""
    generator = torch.Generator().manual_seed(7)
    lengths, num_idle = [7, 33, 16], 4
    prefixes = [random_prefix(generator, prefix_len) for prefix_len in prefix_lens]
    query, key, value = random_states(generator, sum(lengths) + 8)
    call = AttentionCall(1, 0.2, is_causal="causal" in mask, window=5 if "window" in mask else None)
    attention = TritonAttention()
    pack = PackLayout(lengths, prefixes, attention)
    of_rows = PackTables.of(pack, query.dtype, query.device, attention.blocks.queries)
    tables = replace(
        of_rows,
        prefixes=F.pad(of_rows.prefixes, (0, num_idle)),
        starts=F.pad(of_rows.starts, (0, num_idle)),
        item_rows=F.pad(of_rows.item_rows, (0, num_idle), value=-1),
        item_firsts=F.pad(of_rows.item_firsts, (0, num_idle)),
    )
    attention.use_tables(pack, tables)
    with torch.inference_mode():
        seen = attention.attend(call, query, key, value, pack)
    own = [part[:, :, : sum(lengths)] for part in (query, key, value)]
    _, wanted = both(call, own, lengths, prefixes)
    torch.testing.assert_close(seen[:, : sum(lengths)], wanted, atol=5e-6, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [5, 6, 20, 40, 64])
@pytest.mark.parametrize("offset", [0, 2, 8])
def test_what_is_said_of_addresses_is_true(offset: int, head_dim: int, dtype: torch.dtype) -> None:
    """Of every token's key and value in one product: it is at most a vector of 16 bytes, and no more could be said."""
    memory = torch.zeros(offset + 5 * 3 * 3 * head_dim, dtype=dtype)
    product = memory[offset:].view(5, 3, 3, head_dim)
    _, key, value = (part.transpose(0, 1)[None] for part in product.unbind(1))
    unit = unit_of(key, value) * dtype.itemsize
    places = [part[0, 0, token].data_ptr() for part in (key, value) for token in range(5)]
    vectors = [*places, 3 * head_dim * dtype.itemsize]  # of prefixes too, which lie without gaps
    assert not any(place % unit for place in vectors)
    assert unit == ALIGNMENT or any(place % (2 * unit) for place in vectors)


def test_layers_one_by_one_and_prefixes_in_another_layout() -> None:
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(2, NUM_HEADS, 5, 32, generator=generator).to(DEVICE)
    whole = torch.randn(NUM_LAYERS, 2, NUM_HEADS, 5, 32, generator=generator).to(DEVICE)
    parts = random_states(generator, 12)
    for layer in range(NUM_LAYERS):
        seen, wanted = both(AttentionCall(layer, 0.2), parts, [8, 4], [[None, own], whole])
        torch.testing.assert_close(seen, wanted, atol=5e-6, rtol=2e-5)


def test_a_prefix_that_is_not_aligned_is_computed_all_the_same() -> None:
    generator = torch.Generator().manual_seed(4)
    memory = torch.randn(1 + 2 * NUM_LAYERS * 3 * NUM_HEADS * 32, generator=generator).to(DEVICE)
    prefix = memory[1:].view(NUM_LAYERS, 2, 3, NUM_HEADS, 32).transpose(2, 3)
    seen, wanted = both(AttentionCall(1, 0.2), random_states(generator, 9), [9], [prefix])
    torch.testing.assert_close(seen, wanted, atol=5e-6, rtol=2e-5)


def test_gradients_go_another_way() -> None:
    generator = torch.Generator().manual_seed(5)
    query, key, value = (part.requires_grad_() for part in random_states(generator, 9))
    attention = TritonAttention()
    pack = PackLayout([5, 4], [None, random_prefix(generator, 2)], attention)
    attention.attend(AttentionCall(0, 0.2), query, key, value, pack).sum().backward()
    assert value.grad is not None


@pytest.mark.parametrize("terms", ["both", "to_all", "from_all"])
def test_distances_add_to_the_scores_of_own_tokens(terms: str) -> None:
    """Against the sum written out, row by row."""
    generator = torch.Generator().manual_seed(6)
    lengths, longest, num_distances = [7, 40, 1], 40, 11
    prefixes = [random_prefix(generator, 3), None, random_prefix(generator, 9)]
    query, key, value = random_states(generator, sum(lengths))
    to_all, from_all = (torch.randn(NUM_HEADS, sum(lengths), num_distances, generator=generator) for _ in range(2))
    places = torch.arange(2 * longest - 1).sub(longest - 1).clamp(-5, 5).add(5)
    given = DistanceTerms(
        to_all.to(DEVICE) if terms != "from_all" else None,
        from_all.to(DEVICE) if terms != "to_all" else None,
        places.to(DEVICE),
    )
    attention = TritonAttention()
    pack = PackLayout(lengths, prefixes, attention)
    with torch.inference_mode():
        seen = attention.attend_by_distance(AttentionCall(1, 0.2), query, key, value, pack, given)
    assert seen is not None
    start = 0
    for length, prefix in zip(lengths, prefixes, strict=True):
        own = slice(start, start + length)
        of_row = [part[0, :, own].cpu() for part in (query, key, value)]
        scores = of_row[0] @ of_row[1].transpose(1, 2)
        at = places[torch.arange(length)[:, None] - torch.arange(length)[None, :] + longest - 1]
        if given.to_all is not None:
            scores = scores + to_all[:, own].gather(2, at.expand(NUM_HEADS, -1, -1))
        if given.from_all is not None:
            scores = scores + from_all[:, own].gather(2, at.T.expand(NUM_HEADS, -1, -1)).transpose(1, 2)
        values = of_row[2]
        if prefix is not None:
            scores = torch.cat((of_row[0] @ prefix[1, 0].cpu().transpose(1, 2), scores), dim=2)
            values = torch.cat((prefix[1, 1].cpu(), values), dim=1)
        wanted = (scores * 0.2).softmax(dim=-1) @ values
        torch.testing.assert_close(seen[0, own].transpose(0, 1).cpu(), wanted, atol=5e-6, rtol=2e-5)
        start += length


def test_what_it_leaves_to_padded_attention_is_said_by_its_interface() -> None:
    assert not TritonAttention().supports_backward
    assert PaddedAttention().supports_backward
