"""The prefix in training: what dropout leaves of it to each row, and what a bundle stores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.manifest import PrefixSpec
from prefixrack_adapters.training.prefix_encoder import PrefixEncoder

SPEC = PrefixSpec(prefix_len=5, num_layers=3, num_kv_heads=2, head_dim=4, layers=[0, 2])


@pytest.fixture
def encoder() -> PrefixEncoder:
    torch.manual_seed(1)
    return PrefixEncoder(SPEC, hidden_size=8, mlp_size=None, dropout=0.5)


def drawn(encoder: PrefixEncoder, places: Sequence[int]) -> list[Tensor]:
    """What rows at these places of a batch of four see, [2, 2, num_kv_heads, prefix_len, head_dim] each."""
    torch.manual_seed(2)
    return [stacked(prefix) for prefix in encoder.for_rows(encoder(), places, 4)]


def stacked(prefix: Prefix) -> Tensor:
    assert [layer is None for layer in prefix] == [False, True, False]
    return torch.stack([layer for layer in prefix if layer is not None])


def test_every_row_of_a_batch_loses_values_of_its_own(encoder: PrefixEncoder) -> None:
    whole, rows = encoder(), drawn(encoder, range(4))
    for row in rows:
        lost = row == 0
        assert 0.35 < lost.float().mean() < 0.65
        torch.testing.assert_close(row[~lost], 2 * whole[~lost], msg="what is left is scaled")
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 4


def test_what_a_row_loses_does_not_depend_on_its_company(encoder: PrefixEncoder) -> None:
    together = drawn(encoder, range(4))
    for places in ([3, 1], [2]):
        for place, row in zip(places, drawn(encoder, places), strict=True):
            assert torch.equal(row, together[place])


def test_without_dropout_all_rows_share_one_prefix(encoder: PrefixEncoder) -> None:
    for one in (encoder.eval(), PrefixEncoder(SPEC, 8, None, 0.0)):
        first, *others = one.for_rows(one(), range(3), 4)
        assert all(other is first for other in others)
        assert torch.equal(stacked(first), one())


@pytest.mark.parametrize("mlp_size", [None, 6])
def test_a_bundle_stores_what_rows_see(mlp_size: int | None) -> None:
    encoder = PrefixEncoder(SPEC, hidden_size=8, mlp_size=mlp_size, dropout=0.5).eval()
    (prefix,) = encoder.for_rows(encoder(), [0], 1)
    assert torch.equal(stacked(prefix), encoder.folded().transpose(2, 3))
