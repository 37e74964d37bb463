"""The kernel of sum and normalisation in C against torch's own operations."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import prefixrack_adapters.native.norm as native
from no_compiler import refuse
from prefixrack_adapters.families.fused_linear import FusedLinear
from prefixrack_adapters.families.sum_norm import SumNorm
from prefixrack_adapters.native.compiler import NoCompiler
from prefixrack_adapters.native.norm import NativeNorm, compiled_norm


@pytest.fixture(scope="module")
def kernel() -> NativeNorm:
    try:
        return NativeNorm()
    except NoCompiler as error:
        pytest.skip(f"nothing can be compiled here: {error}")


def random_norm(width: int, dtype: torch.dtype = torch.float32) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=1e-5, dtype=dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("num_tokens", [1, 5, 300])
@pytest.mark.parametrize("width", [16, 48, 384])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_it_equals_the_sum_and_the_normalisation(
    kernel: NativeNorm, num_tokens: int, width: int, dtype: torch.dtype
) -> None:
    """300 tokens of 384 are shared out over threads."""
    generator = torch.Generator().manual_seed(width)
    states, residual = (torch.randn(num_tokens, width, generator=generator).add(3).to(dtype) for _ in range(2))
    norm = random_norm(width, dtype)
    exact = F.layer_norm(states.float() + residual.float(), (width,), norm.weight.float(), norm.bias.float(), norm.eps)
    seen = kernel(states, residual, norm)
    assert seen.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(seen.float(), exact, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("num_tokens", [3, 70])
@torch.inference_mode()
def test_lines_of_a_longer_residual(kernel: NativeNorm, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    states, residual = torch.randn(num_tokens, 48, generator=generator), torch.randn(9, 48, generator=generator)
    places, norm = torch.randint(9, (num_tokens,), generator=generator), random_norm(48)
    exact = norm(states + residual[places])
    torch.testing.assert_close(kernel(states, residual, norm, places), exact, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_is_not_finite_stays_in_its_token(kernel: NativeNorm) -> None:
    states, residual = torch.ones(3, 32), torch.arange(96.0).view(3, 32)
    states[1, 5] = torch.inf
    seen = kernel(states, residual, random_norm(32))
    assert seen.isfinite().all(dim=1).tolist() == [True, False, True]


@pytest.mark.parametrize("norm", [nn.LayerNorm(40), nn.LayerNorm(32, bias=False), nn.LayerNorm(32).half()])
@torch.inference_mode()
def test_what_the_kernel_does_not_compute_runs_as_operations(norm: nn.LayerNorm) -> None:
    assert not NativeNorm.takes(norm)
    width, dtype = len(norm.weight), norm.weight.dtype
    linear = nn.Linear(16, width, dtype=dtype)
    states, residual = torch.randn(4, 16, dtype=dtype), torch.randn(4, width, dtype=dtype)
    seen = SumNorm(FusedLinear([linear]), norm)(states, residual)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(seen, norm(linear(states) + residual), atol=tolerance, rtol=tolerance)


@torch.inference_mode()
def test_without_a_compiler_there_is_a_line_in_the_log_and_the_same_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    linear, norm = nn.Linear(16, 32), random_norm(32)
    states, residual = torch.randn(4, 16), torch.randn(4, 32)
    seen = SumNorm(FusedLinear([linear]), norm)(states, residual)
    monkeypatch.setattr(native, "load_library", refuse)
    compiled_norm.cache_clear()
    with caplog.at_level(logging.WARNING):
        plain = SumNorm(FusedLinear([linear]), norm)(states, residual)
    compiled_norm.cache_clear()
    assert "no C compiler for norm.c" in caplog.text
    torch.testing.assert_close(seen, plain, atol=1e-5, rtol=1e-5)
