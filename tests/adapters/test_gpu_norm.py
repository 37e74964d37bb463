"""The kernel of sum and normalisation against torch's own operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from interpreted_kernels import DEVICE, kernels_or_skip

kernels_or_skip()

from prefixrack_adapters.gpu.norm import add_and_normalise  # noqa: E402 - only where the kernels can run


@pytest.mark.parametrize("width", [16, 48, 384])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_it_equals_the_sum_and_the_normalisation(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    states, residual = (torch.randn(5, width, generator=generator).add(3).to(DEVICE, dtype) for _ in range(2))
    norm = nn.LayerNorm(width, eps=1e-5, device=DEVICE, dtype=dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    exact = F.layer_norm(states.float() + residual.float(), (width,), norm.weight.float(), norm.bias.float(), norm.eps)
    seen = add_and_normalise(states, residual, norm)
    assert seen.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(seen.float(), exact, atol=tolerance, rtol=tolerance)
