"""The embedding layer of inference against the stock one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.families.embedding_sum import EmbeddingSum
from prefixrack_adapters.native.norm import compiled_norm
from tiny import write_backbone


@pytest.mark.skipif(compiled_norm() is None, reason="no C compiler on this machine")
@pytest.mark.parametrize(("dtype", "close"), [("float32", 2e-6), ("bfloat16", 0.03)])
@pytest.mark.parametrize("family", ["bert", "roberta"])
@torch.inference_mode()
def test_it_equals_the_stock_layer(family: str, dtype: str, close: float, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, family, hidden_size=64, num_attention_heads=2, initializer_range=1.0)
    backbone = Backbone.load(folder, device="cpu", dtype=dtype)
    layer = EmbeddingSum.of(backbone.model.embeddings)
    assert layer is not None
    generator = torch.Generator().manual_seed(0)
    num_segments = max(1, backbone.spec.num_segments)
    ids, segments, positions = (
        torch.randint(end, (500,), generator=generator)
        for end in (backbone.spec.vocab_size, num_segments, backbone.spec.max_positions)
    )
    words = backbone.family.words(ids)
    wanted = backbone.family.embed(words, segments, positions)
    seen = layer(words.clone(), segments, positions)
    assert seen.dtype == wanted.dtype
    torch.testing.assert_close(seen, wanted, atol=close, rtol=close)


def test_a_width_that_the_kernel_does_not_take_stays_with_the_stock_layer(tmp_path: Path) -> None:
    backbone = Backbone.load(write_backbone(tmp_path, "electra"), device="cpu")
    assert EmbeddingSum.of(backbone.model.embeddings) is None
