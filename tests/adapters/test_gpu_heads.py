"""Heads computed together against each head alone: any mix of depths, sizes, activations and numbers of states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpreted_kernels import DEVICE, kernels_or_skip
from prefixrack_adapters.dense import Dense
from prefixrack_adapters.head_layout import HeadLayout
from prefixrack_adapters.heads import Head
from prefixrack_adapters.packing import row_spans
from prefixrack_adapters.readout import PendingLogits
from prefixrack_adapters.rows import Row

kernels_or_skip()

from prefixrack_adapters.gpu.heads import HeadStates, logits_of  # noqa: E402 - see above
from prefixrack_adapters.gpu.readout import HeadsTogether  # noqa: E402

WIDTH = 40


def random_head(generator: torch.Generator, widths: list[int], activation: str | None, has_bias: bool) -> Head:
    layers: list[Dense] = []
    for num_inputs, num_outputs in zip([WIDTH, *widths[:-1]], widths, strict=True):
        weight = torch.randn(num_outputs, num_inputs, generator=generator).to(DEVICE)
        bias = torch.randn(num_outputs, generator=generator).to(DEVICE) if has_bias else None
        layers.append(Dense(weight, bias, activation if len(layers) + 1 < len(widths) else None))
    return Head("first_token", layers)


@settings(max_examples=25)
@given(
    heads=st.lists(
        st.tuples(
            st.lists(st.integers(1, 70), min_size=1, max_size=3),
            st.sampled_from([None, "tanh", "gelu", "relu"]),
            st.booleans(),
            st.integers(1, 20),
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_heads_together_equal_each_alone(heads: list[tuple[list[int], str | None, bool, int]], seed: int) -> None:
    """Head (widths, activation, bias, n): layers of these widths, over n states."""
    generator = torch.Generator().manual_seed(seed)
    made = [random_head(generator, *head) for *head, _ in heads]  # type: ignore[arg-type]
    nums = [num for *_, num in heads]
    firsts = [sum(nums[:index]) for index in range(len(nums))]
    states = torch.randn(sum(nums), WIDTH, generator=generator).to(DEVICE)
    with torch.inference_mode():
        together = logits_of(states, list(map(HeadStates, map(layout_of, made), firsts, nums)))
        for head, first, num in zip(made, firsts, nums, strict=True):
            wanted = head(states[first : first + num])
            scale = max(1.0, wanted.abs().max().item())
            seen = together[first : first + num, : wanted.shape[1]]
            torch.testing.assert_close(seen, wanted, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_no_pack_waits_for_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever numbers of outputs and states it is the first to have."""
    from triton import knobs  # what is interpreted has no compiler

    HeadsTogether.compiled(WIDTH, torch.bfloat16, torch.device(DEVICE))
    compiled: list[str] = []
    monkeypatch.setattr(knobs.runtime, "jit_cache_hook", lambda **said: compiled.append(said["repr"]))
    generator = torch.Generator().manual_seed(3)
    for widths in ([1], [2], [16], [17], [16, 1], [3, 64]):
        for num in (1, 2, 16, 33):
            states = torch.randn(num, WIDTH, generator=generator).to(DEVICE, torch.bfloat16)
            logits_of(states, [HeadStates(layout_of(random_head(generator, widths, "tanh", True)), 0, num)])
    assert not compiled


def test_a_readout_that_was_compiled_reads_as_any_other() -> None:
    head = random_head(torch.Generator().manual_seed(4), [3], None, True)
    hidden = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    spans = row_spans([Row((7,) * 5, (0,) * 5, 0)], [None])
    readings = HeadsTogether.compiled(WIDTH, torch.float32, torch.device(DEVICE)).read(hidden, spans, {0: head})
    (seen,) = PendingLogits(readings, [0]).wait()
    torch.testing.assert_close(torch.from_numpy(seen), head(hidden[0]).cpu(), atol=2e-5, rtol=1e-4)


def layout_of(head: Head) -> HeadLayout:
    layout = head.layout
    assert layout is not None
    return layout


def test_a_head_that_is_not_float32_normalises_or_has_no_layers_runs_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    head = random_head(generator, [3], None, True)
    layer = head.layers[0]
    assert head.layout is not None
    assert Head("first_token", []).layout is None
    assert Head("first_token", [Dense(layer.weight, layer.bias, "swish")]).layout is None
    assert Head("first_token", [Dense(layer.weight.bfloat16(), None, None)]).layout is None
    assert Head("first_token", [Dense(layer.weight, layer.bias, None, norm_eps=1e-5)]).layout is None
