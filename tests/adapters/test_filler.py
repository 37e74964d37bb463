"""The row that fills packs up: few numbers of tokens reach the model, and nobody's answer changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefixrack_adapters.attention import PackLayout
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.filler import FINEST, SIZES_PER_OCTAVE, filled_up, filler_for
from prefixrack_adapters.native import tile_layers
from prefixrack_adapters.rows import Row
from tiny import write_backbone


class Sizes:
    """Notes how many tokens reach a backbone's family."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
        self.seen: list[int] = []
        self._compute = backbone.family.hidden_states
        monkeypatch.setattr(backbone.family, "hidden_states", self._hidden_states)

    def _hidden_states(self, words: torch.Tensor, segments: Any, positions: Any, pack: PackLayout) -> torch.Tensor:
        self.seen.append(len(words))
        return self._compute(words, segments, positions, pack)


@given(st.integers(1, 100_000))
def test_sizes_are_few_and_near(num_tokens: int) -> None:
    size = filled_up(num_tokens)
    assert 0 <= size - num_tokens < max(FINEST, num_tokens / SIZES_PER_OCTAVE)
    assert size % FINEST == 0
    assert filled_up(size) == size


@pytest.mark.parametrize("first", [256, 512, 1024, 2048])
def test_an_octave_has_so_many_sizes(first: int) -> None:
    assert len({filled_up(num_tokens) for num_tokens in range(first + 1, 2 * first + 1)}) == SIZES_PER_OCTAVE


def row_of(length: int, first_position: int) -> Row:
    return Row(tuple(range(5, 5 + length)), (0,) * length, first_position)


def packs(backbone: Backbone) -> list[list[PackRow]]:
    lengths = [[5], [8], [3, 20, 7], [20, 21, 22, 19]]
    return [[PackRow(row_of(length, backbone.spec.base_position), None) for length in pack] for pack in lengths]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_answers_are_the_same_with_and_without(
    family: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_layers, "compiled_tiles", lambda: None)  # for them nothing is filled up
    folder = write_backbone(tmp_path, family, hidden_size=64, num_attention_heads=2)
    backbone = Backbone.load_for_inference(folder, device="cpu", dtype=dtype)
    sizes = Sizes(monkeypatch, backbone)
    filled = [backbone.compute(pack) for pack in packs(backbone)]
    assert sizes.seen == [8, 8, 32, 88]
    monkeypatch.setattr(type(backbone.family), "compiles_sizes", False)
    plain = [backbone.compute(pack) for pack in packs(backbone)]
    assert sizes.seen[4:] == [5, 8, 30, 82]
    tolerance = 1e-5 if dtype == "float32" else 0.05
    for seen, wanted in zip(filled, plain, strict=True):
        for row, wanted_row in zip(seen, wanted, strict=True):
            np.testing.assert_allclose(row, wanted_row, atol=tolerance, rtol=tolerance)


def test_hidden_states_are_those_of_the_rows_alone(tmp_path: Path) -> None:
    backbone = Backbone.load_for_inference(write_backbone(tmp_path), device="cpu")
    rows = [row_of(length, 0) for length in (3, 4, 6)]
    assert len(backbone.hidden_states(rows, [None] * 3)) == 13


def test_no_row_is_longer_than_the_backbone_has_positions(tmp_path: Path) -> None:
    backbone = Backbone.load_for_inference(write_backbone(tmp_path, max_position_embeddings=12), device="cpu")
    longest = backbone.spec.max_tokens(backbone.spec.base_position)
    filler = filler_for(4096 + 128 - longest, backbone.spec)
    assert filler is not None
    assert len(filler) == longest
    assert filler_for(4096 + 128 - longest - 1, backbone.spec) is None
    rows = [Row((5,) * longest, (0,) * longest, 0)] * 400  # 4,800 tokens, the next size has 4,864
    assert len(backbone.hidden_states(rows, [None] * len(rows))) == 400 * longest


def test_a_pack_in_training_is_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(write_backbone(tmp_path), device="cpu")
    sizes = Sizes(monkeypatch, backbone)
    backbone.compute(packs(backbone)[0])
    assert sizes.seen == [5]
