"""Attention in C against the row loop: any mix of lengths and prefixes, every layout and dtype that it takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import prefixrack_adapters.native.attention as native
from no_compiler import refuse
from prefixrack_adapters.attention import AttentionCall, PackLayout, Prefix, RowLoop
from prefixrack_adapters.backbone import compiled_attention
from prefixrack_adapters.native.attention import PRODUCTS, NativeAttention
from prefixrack_adapters.native.compiler import NoCompiler

NUM_LAYERS, NUM_HEADS = 2, 3


@pytest.fixture(scope="module")
def attention() -> NativeAttention:
    try:
        return NativeAttention()
    except NoCompiler as error:
        pytest.skip(f"nothing can be compiled here: {error}")


@pytest.fixture(scope="module", params=PRODUCTS)
def way(request: pytest.FixtureRequest, attention: NativeAttention) -> NativeAttention:
    """Each way to multiply bfloat16; a processor that lacks one takes the next slower."""
    return NativeAttention(request.param)


def states(generator: torch.Generator, num_tokens: int, head_dim: int, *, is_fused: bool = True) -> tuple[Tensor, ...]:
    """query, key and value [1, heads, T, head_dim], as views of one product or of three."""
    parts = torch.randn(num_tokens, 3, NUM_HEADS, head_dim, generator=generator).unbind(1)
    return tuple((part if is_fused else part.contiguous()).transpose(0, 1)[None] for part in parts)


def prefix_of(generator: torch.Generator, prefix_len: int, head_dim: int) -> Tensor | None:
    shape = (NUM_LAYERS, 2, NUM_HEADS, prefix_len, head_dim)
    return torch.randn(*shape, generator=generator) if prefix_len else None


def both(
    attention: NativeAttention,
    call: AttentionCall,
    parts: Sequence[Tensor],
    lengths: list[int],
    prefixes: Sequence[Prefix | None],
) -> tuple[Tensor, Tensor]:
    query, key, value = parts
    loop = RowLoop()
    with torch.inference_mode():
        seen = attention.attend(call, query, key, value, PackLayout(lengths, prefixes, attention))
        wanted = loop.attend(call, query, key, value, PackLayout(lengths, prefixes, loop))
    assert seen.shape == wanted.shape
    return seen, wanted


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 40)), min_size=1, max_size=9),
    head_dim=st.sampled_from([16, 32, 48, 64]),
    is_fused=st.booleans(),
    layer=st.integers(0, NUM_LAYERS - 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_pack_equals_the_row_loop(
    attention: NativeAttention, rows: list[tuple[int, int]], head_dim: int, is_fused: bool, layer: int, seed: int
) -> None:
    """Row (n, p): n tokens behind a prefix of p vectors."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length for length, _ in rows]
    prefixes = [prefix_of(generator, prefix_len, head_dim) for _, prefix_len in rows]
    parts = states(generator, sum(lengths), head_dim, is_fused=is_fused)
    seen, wanted = both(attention, AttentionCall(layer, head_dim**-0.5), parts, lengths, prefixes)
    torch.testing.assert_close(seen, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [30.0, 300.0])
def test_scores_far_apart_neither_overflow_nor_vanish(attention: NativeAttention, size: float) -> None:
    """Trained prefixes have keys many times as large as a token's."""
    generator = torch.Generator().manual_seed(1)
    prefix = prefix_of(generator, 16, 32)
    assert prefix is not None
    call, parts = AttentionCall(0, 32**-0.5), states(generator, 40, 32)
    seen, wanted = both(attention, call, parts, [33, 7], [prefix * size, prefix * -size])
    assert seen.isfinite().all()
    assert (seen - wanted).abs().max() <= 1e-3 * wanted.abs().max()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.integers(1, 130), st.integers(0, 128)), min_size=1, max_size=20),
    head_dim=st.sampled_from([16, 32, 48, 64, 80]),
    is_fused=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_in_bfloat16_it_is_as_near_to_float32_as_the_row_loop(
    way: NativeAttention,
    rows: list[tuple[int, int]],
    head_dim: int,
    is_fused: bool,
    seed: int,
) -> None:
    """What is compared is the root mean square: the largest error is one token's luck."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [length for length, _ in rows]
    prefixes = [prefix_of(generator, prefix_len, head_dim) for _, prefix_len in rows]
    parts = [part.bfloat16() for part in states(generator, sum(lengths), head_dim, is_fused=is_fused)]
    narrow = [None if prefix is None else prefix.bfloat16() for prefix in prefixes]
    widened = [None if prefix is None else prefix.float() for prefix in narrow]
    call = AttentionCall(1, head_dim**-0.5)
    _, exact = both(way, call, [part.float() for part in parts], lengths, widened)
    seen, loop = both(way, call, parts, lengths, narrow)
    assert seen.dtype == torch.bfloat16
    assert error(seen, exact) <= 1.2 * error(loop, exact) + 3e-4


def error(seen: Tensor, exact: Tensor) -> float:
    return float((seen.float() - exact).square().mean().sqrt())


def test_scores_far_apart_in_bfloat16(way: NativeAttention) -> None:
    generator = torch.Generator().manual_seed(6)
    prefix = prefix_of(generator, 17, 32)
    assert prefix is not None
    parts = [part.bfloat16() for part in states(generator, 40, 32)]
    narrow = [(prefix * size).bfloat16() for size in (300, -30)]
    seen, wanted = both(way, AttentionCall(0, 32**-0.5), parts, [33, 7], narrow)
    assert seen.isfinite().all()
    assert (seen.float() - wanted.float()).abs().max() <= 2e-2 * wanted.float().abs().max()


def test_layers_one_by_one_of_which_some_have_no_prefix(attention: NativeAttention) -> None:
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(2, NUM_HEADS, 5, 32, generator=generator)
    parts = states(generator, 12, 32)
    for layer, prefix in ((0, [None, own]), (1, [None, own])):
        seen, wanted = both(attention, AttentionCall(layer, 1.0), parts, [8, 4], [prefix, prefix])
        torch.testing.assert_close(seen, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": 3}])
def test_what_has_a_mask_goes_to_the_row_loop(attention: NativeAttention, options: dict[str, bool | int]) -> None:
    generator = torch.Generator().manual_seed(4)
    call = AttentionCall(0, 1.0, is_causal=bool(options.get("is_causal")), window=options.get("window"))
    seen, wanted = both(attention, call, states(generator, 12, 32), [8, 4], [None, prefix_of(generator, 3, 32)])
    assert torch.equal(seen, wanted)


def test_gradients_go_through_the_row_loop(attention: NativeAttention) -> None:
    generator = torch.Generator().manual_seed(5)
    query, key, value = (part.requires_grad_() for part in states(generator, 12, 32))
    attention.attend(AttentionCall(0, 1.0), query, key, value, PackLayout([12], [None], attention)).sum().backward()
    assert query.grad is not None


def test_without_a_compiler_there_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "load_library", refuse)
    with caplog.at_level(logging.WARNING):
        assert compiled_attention() is None
    assert "no C compiler for attention.c" in caplog.text
