"""The kernels between int8 products in C against the same steps as torch's own operations."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

import prefixrack_adapters.native.int8 as native
from no_compiler import refuse
from prefixrack_adapters.families.fused_linear import Activation
from prefixrack_adapters.families.int8_arithmetic import PlainInt8, arithmetic_for
from prefixrack_adapters.native.activations import ACTIVATIONS
from prefixrack_adapters.native.compiler import NoCompiler
from prefixrack_adapters.native.int8 import Channels, NativeInt8, compiled_int8

SIZES = [(1, 16), (5, 48), (300, 384)]  # the last one is shared out over threads


@pytest.fixture(scope="module")
def kernels() -> NativeInt8:
    try:
        return NativeInt8()
    except NoCompiler as error:
        pytest.skip(f"nothing can be compiled here: {error}")


def random_sums(num_tokens: int, width: int) -> tuple[Tensor, Tensor, Channels]:
    generator = torch.Generator().manual_seed(width)
    sums = torch.randint(-400_000, 400_000, (num_tokens, width), generator=generator, dtype=torch.int32)
    scales, channels, bias = (torch.rand(size, generator=generator) for size in (num_tokens, width, width))
    return sums, scales * 1e-2, Channels(channels * 1e-3, bias - 0.5)


@pytest.mark.parametrize(("num_tokens", "width"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantising(kernels: NativeInt8, num_tokens: int, width: int, dtype: torch.dtype) -> None:
    numbers = (torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    numbers[0, 3] = -40.0  # an outlier takes the whole range of its token, and of no other
    seen, wanted = kernels.quantise(numbers), PlainInt8().quantise(numbers)
    torch.testing.assert_close(seen.scales, wanted.scales)
    assert seen.values[0, 3] == -127
    assert (seen.values.int() - wanted.values.int()).abs().max() <= 1  # a number between two may fall to either
    exact = numbers.float()
    assert ((seen.values * seen.scales[:, None] - exact).abs() <= 0.5001 * seen.scales[:, None] + 1e-6).all()


def test_zeros_stay_zeros_and_what_is_not_finite_stays_in_its_token(kernels: NativeInt8) -> None:
    numbers = torch.ones(5, 32)
    numbers[1], numbers[2, 7], numbers[3, 30] = 0.0, torch.nan, torch.inf
    for steps in (kernels, PlainInt8()):
        seen = steps.quantise(numbers)
        assert seen.scales.isfinite().tolist() == [True, True, False, False, True]
        assert seen.scales[1] == 0
        assert not seen.values[1].any()


@pytest.mark.parametrize(("num_tokens", "width"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_sums_of_products_to_numbers(kernels: NativeInt8, num_tokens: int, width: int, dtype: torch.dtype) -> None:
    seen, wanted = (
        steps.dequantise(*random_sums(num_tokens, width), torch.empty(num_tokens, width, dtype=dtype))
        for steps in (kernels, PlainInt8())
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(seen, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("num_tokens", "width"), SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_from_sums_through_an_activation_to_int8(
    kernels: NativeInt8, num_tokens: int, width: int, activation: Activation
) -> None:
    sums = random_sums(num_tokens, width)
    seen = kernels.requantise(*sums, activation)
    wanted = PlainInt8().requantise(*sums, activation)
    torch.testing.assert_close(seen.scales, wanted.scales, atol=1e-7, rtol=1e-5)
    assert (seen.values.int() - wanted.values.int()).abs().max() <= 1


def test_the_activations_are_exact_to_the_fifth_digit(kernels: NativeInt8) -> None:
    """One number a token: nothing is lost between int8's steps but half of one 127th, so the scale shows it."""
    points = torch.linspace(0.05, 7.0, 500)
    sums = torch.zeros(500, 16, dtype=torch.int32)
    sums[:, 0] = 1
    channels = Channels(torch.ones(16), torch.zeros(16))
    bounds: dict[Activation, float] = {"gelu": 2e-5, "gelu_tanh": 3e-6, "relu": 3e-6}
    for activation, bound in bounds.items():
        seen = kernels.requantise(sums, points, channels, activation).scales * 127
        wanted = PlainInt8().requantise(sums, points, channels, activation).scales * 127
        torch.testing.assert_close(seen, wanted, atol=bound, rtol=1e-6)
        negative = kernels.requantise(-sums, points, channels, activation).scales * 127
        wanted = PlainInt8().requantise(-sums, points, channels, activation).scales * 127
        torch.testing.assert_close(negative, wanted, atol=bound, rtol=1e-6)


def test_widths_that_are_no_multiple_and_no_compiler_have_the_plain_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(arithmetic_for(32, 40), PlainInt8)
    monkeypatch.setattr(native, "load_library", refuse)
    compiled_int8.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert isinstance(arithmetic_for(32, 48), PlainInt8)
    compiled_int8.cache_clear()
    assert "no C compiler for int8.c" in caplog.text
