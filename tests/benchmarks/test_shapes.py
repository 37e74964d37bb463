"""Random backbones of published shapes: they can be made where the packaged one is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import shapes
from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import BackboneTokenizer
from workload import make_rows, natural_lengths, random_manifest, random_texts


@pytest.mark.parametrize("is_installed", [True, False])
def test_texts_have_as_many_tokens_as_was_drawn(
    is_installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> Path:
        raise UnsupportedBackbone("the embedded backbone is not installed")

    if not is_installed:
        monkeypatch.setattr(shapes, "resolve_backbone", missing)
    monkeypatch.setitem(shapes.RANDOM_SHAPES, "bert-base", (1, 32, 2))
    folder = shapes.backbone_folder("bert-base", tmp_path)
    spec = BackboneSpec.load(folder)
    texts = random_texts(folder, 20, np.random.default_rng(0))
    rows = make_rows(texts, random_manifest("one", spec, 4), spec, BackboneTokenizer.load(folder, spec))
    assert [len(row) for row in rows] == natural_lengths(20, np.random.default_rng(0))
    assert all(max(row.token_ids) < spec.vocab_size for row in rows)
