"""Small heads read together against each head alone: any mix of kinds, gathers, dtypes and rows that share a head."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefixrack_adapters.native.heads as native
from no_compiler import refuse
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.dense import Dense
from prefixrack_adapters.head_layout import LayerLayout
from prefixrack_adapters.heads import Gather, Head
from prefixrack_adapters.native.heads import compiled_heads
from prefixrack_adapters.packing import RowSpan
from prefixrack_adapters.readout import HeadByHead, PendingLogits, Readout
from prefixrack_adapters.small_heads import MAX_OUTPUTS, SmallHeads, stacked_values

WIDTH, ROW_LEN, PROMPT_LEN = 24, 5, 2
GATHERS = list(get_args(Gather))


def head_of(outputs: int, gather: Gather = "first_token", has_bias: bool = True, activation: str | None = None) -> Head:
    generator = torch.Generator().manual_seed(outputs)
    bias = torch.randn(outputs, generator=generator) if has_bias else None
    return Head(gather, [Dense(torch.randn(outputs, WIDTH, generator=generator), bias, activation)])


def spans_of(num_rows: int) -> list[RowSpan]:
    starts = range(0, num_rows * (PROMPT_LEN + ROW_LEN), PROMPT_LEN + ROW_LEN)
    return [RowSpan(start, PROMPT_LEN, ROW_LEN) for start in starts]


def logits(readout: Readout, hidden: torch.Tensor, heads: list[Head | None]) -> list[torch.Tensor]:
    spans = spans_of(len(heads))
    readings = readout.read(hidden, spans, dict(enumerate(heads)))
    return list(map(torch.from_numpy, PendingLogits(readings, range(len(heads))).wait()))


def states(num_rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(num_rows * (PROMPT_LEN + ROW_LEN), WIDTH, generator=generator).to(dtype)


HEADS = st.builds(
    head_of,
    st.sampled_from([1, 3, 4, MAX_OUTPUTS, MAX_OUTPUTS + 1]),
    st.sampled_from(GATHERS),
    st.booleans(),
    st.sampled_from([None, "tanh"]),
)


@settings(max_examples=60)
@given(
    distinct=st.lists(st.one_of(st.none(), HEADS), min_size=1, max_size=8),
    repeats=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_equal_each_head_alone(distinct: list[Head | None], repeats: int, dtype: torch.dtype) -> None:
    heads = distinct * repeats
    hidden = states(len(heads), dtype)
    together, alone = (logits(readout, hidden, heads) for readout in (SmallHeads(), HeadByHead()))
    for seen, wanted in zip(together, alone, strict=True):
        assert seen.dtype == wanted.dtype
        torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("heads", "num_readings"),
    [
        pytest.param([head_of(3) for _ in range(6)], 1, id="alike"),
        pytest.param([head_of(3), head_of(3, "last_token"), head_of(4)], 2, id="a kind for each number of outputs"),
        pytest.param([head_of(3), head_of(3, has_bias=False)], 2, id="with and without bias"),
        pytest.param([head_of(MAX_OUTPUTS + 1), head_of(MAX_OUTPUTS + 1)], 2, id="too large"),
        pytest.param([head_of(3, "every_token"), head_of(3, "every_token"), head_of(3)], 2, id="every token of theirs"),
        pytest.param([head_of(3, "mean_tokens"), head_of(3, "mean_tokens")], 2, id="means"),
    ],
)
def test_what_is_read_at_once(heads: list[Head], num_readings: int) -> None:
    readings = SmallHeads().read(states(len(heads)), spans_of(len(heads)), dict(enumerate(heads)))
    assert len(readings) == num_readings


@pytest.mark.parametrize("gather", ["first_token", "every_token"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_logits_whatever_other_rows_its_head_has(dtype: torch.dtype, gather: Gather) -> None:
    """To the last bit: a product with several rows at once would add in another order."""
    if compiled_heads() is None:
        pytest.skip("nothing can be compiled here")
    head, hidden = head_of(3, gather), states(5, dtype)
    alone = [
        logits(SmallHeads(), hidden, [head if index == row else None for index in range(5)])[row] for row in range(5)
    ]
    torch.testing.assert_close(logits(SmallHeads(), hidden, [head] * 5), alone, atol=0, rtol=0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_head_knows_where_its_own_weights_lie(copied: Callable[[Head], Head]) -> None:
    head = head_of(3)
    assert head.layout is not None
    twin = copied(head)
    assert twin.layout is not None
    assert twin.layout.layers[0].weight == twin.layers[0].weight.data_ptr()


def test_a_backbone_for_inference_on_a_cpu_reads_them_together() -> None:
    backbone = Backbone.load("embedded", device="cpu")
    backbone.optimise_for_inference()
    assert isinstance(backbone.readout, SmallHeads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "has_bias"), [(1, True), (3, False), (MAX_OUTPUTS, True)])
@pytest.mark.parametrize("num_heads", [1, 200])
@torch.inference_mode()
def test_the_kernel_equals_the_stack(dtype: torch.dtype, outputs: int, has_bias: bool, num_heads: int) -> None:
    """200 heads of 32 outputs are shared out over threads; the width is no multiple of a vector's."""
    kernel = compiled_heads()
    if kernel is None:
        pytest.skip("nothing can be compiled here")
    hidden = states(num_heads, dtype)
    generator = torch.Generator().manual_seed(outputs)
    layers = [
        Dense(
            torch.randn(outputs, WIDTH, generator=generator),
            torch.randn(outputs, generator=generator) if has_bias else None,
            None,
        )
        for _ in range(num_heads)
    ]
    places = np.random.default_rng(0).permutation(len(hidden))[:num_heads]
    seen = kernel(hidden, places, list(map(LayerLayout.of, layers)), [1] * num_heads)
    torch.testing.assert_close(seen, stacked_values(hidden, places, layers), atol=1e-5, rtol=1e-5)


def test_without_a_compiler_there_is_a_line_in_the_log_and_the_same_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heads: list[Head | None] = [head_of(3), head_of(3), head_of(4, "last_token"), head_of(3, "every_token")]
    hidden = states(len(heads))
    before = logits(SmallHeads(), hidden, heads)
    monkeypatch.setattr(native, "load_library", refuse)
    compiled_heads.cache_clear()
    with caplog.at_level(logging.WARNING):
        after = logits(SmallHeads(), hidden, heads)
    compiled_heads.cache_clear()
    assert "no C compiler for heads.c" in caplog.text
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
