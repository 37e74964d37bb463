"""The kernel of GELU against torch's own operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from interpreted_kernels import DEVICE, kernels_or_skip

kernels_or_skip()

from prefixrack_adapters.gpu.activation import BLOCK, gelu  # noqa: E402 - only where the kernels can run


@pytest.mark.parametrize("num_values", [1, BLOCK, BLOCK + 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_torchs_gelu_in_place(num_values: int, dtype: torch.dtype) -> None:
    states = torch.randn(num_values, generator=torch.Generator().manual_seed(num_values)).mul(4).to(DEVICE, dtype)
    exact = F.gelu(states.float())
    seen = gelu(states)
    assert seen is states
    tolerance = 2e-6 if dtype == torch.float32 else 8e-3
    torch.testing.assert_close(seen.float(), exact, atol=tolerance, rtol=tolerance)
