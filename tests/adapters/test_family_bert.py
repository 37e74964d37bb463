"""A backbone that is optimised for inference against the same one as it was loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families import fused_linear
from prefixrack_adapters.families.bert_weights import BertWeights
from prefixrack_adapters.rows import Row
from tiny import FAMILIES, make_manifest, random_arrays, vocabulary, write_backbone

# Its heads are wide enough for the compiled attention.
WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}
CLOSE = 3e-5  # relative; logits of random heads are sums in which much cancels


def random_pack(backbone: Backbone, dtype: torch.dtype = torch.float32) -> list[PackRow]:
    """Rows of all lengths in no order, with prefixes of three lengths, a head for every token, and none."""
    generator = np.random.default_rng(1)
    adapters: list[Adapter | None] = [None]
    for index, prefix_len in enumerate((0, 5, 16)):
        manifest = make_manifest(
            backbone.spec, name=f"a{index}", task="token-classification", labels=("O", "B-x"), prefix_len=prefix_len
        )
        arrays = random_arrays(manifest, backbone.spec.hidden_size, seed=index)
        adapters.append(Adapter.from_arrays(manifest, arrays, device="cpu", dtype=dtype))
    pack = []
    for index in range(24):
        length = int(generator.integers(1, 70))
        ids = generator.integers(0, len(vocabulary()), length).tolist()
        pack.append(PackRow(Row(tuple(ids), (0,) * length, 20), adapters[index % len(adapters)]))
    return pack


def load_both(folder: Path, dtype: str = "float32") -> tuple[Backbone, Backbone]:
    return (
        Backbone.load(folder, device="cpu", dtype=dtype),
        Backbone.load_for_inference(folder, device="cpu", dtype=dtype),
    )


def largest_difference(stock: Backbone, optimised: Backbone, pack: list[PackRow]) -> float:
    """Relative to each row's largest value."""
    pairs = zip(optimised.compute(pack), stock.compute(pack), strict=True)
    return max(float(np.abs(seen - wanted).max() / max(1.0, np.abs(wanted).max())) for seen, wanted in pairs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_optimising_changes_nothing_but_the_last_bits(family: str, activation: str, tmp_path: Path) -> None:
    """silu is one that is not fused: such a backbone stays as it is."""
    stock, optimised = load_both(write_backbone(tmp_path, family, hidden_act=activation, **WIDE))
    assert largest_difference(stock, optimised, random_pack(stock)) <= CLOSE


@pytest.mark.parametrize("family", FAMILIES)
def test_an_optimised_stock_model_is_what_is_loaded_without_one(family: str, tmp_path: Path) -> None:
    """Bit for bit: the same values in the same operations."""
    folder = write_backbone(tmp_path, family, **WIDE)
    optimised, without_stock = Backbone.load(folder, device="cpu"), Backbone.load_for_inference(folder, device="cpu")
    optimised.optimise_for_inference()
    assert isinstance(without_stock.model, BertWeights)
    assert largest_difference(optimised, without_stock, random_pack(optimised)) == 0.0


def test_a_config_that_leaves_its_shape_to_transformers_is_read_by_it(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, intermediate_size=3072)
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    stock, optimised = load_both(folder)
    assert not isinstance(optimised.model, BertWeights)
    assert largest_difference(stock, optimised, random_pack(stock)) <= CLOSE


def test_in_bfloat16_too(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, **WIDE)
    stock, optimised = load_both(folder, "bfloat16")
    exact = Backbone.load(folder, device="cpu")
    pack = random_pack(stock)
    narrow = random_pack(stock, torch.bfloat16)
    wanted = exact.compute(pack)
    of_stock, of_optimised = (
        np.sqrt(
            np.mean([np.square(seen - one).mean() for seen, one in zip(backbone.compute(narrow), wanted, strict=True)])
        )
        for backbone in (stock, optimised)
    )
    assert 0 < of_optimised <= 1.1 * of_stock


def test_weights_are_not_kept_twice(tmp_path: Path) -> None:
    stock, optimised = load_both(write_backbone(tmp_path, **WIDE))
    names = {name for name, _ in optimised.model.named_parameters()}
    assert names < {name for name, _ in stock.model.named_parameters()}
    assert not [name for name in names if ".layer." in name]


def test_optimising_twice_is_optimising_once(tmp_path: Path) -> None:
    stock, optimised = load_both(write_backbone(tmp_path, **WIDE))
    optimised.optimise_for_inference()
    assert largest_difference(stock, optimised, random_pack(stock)) <= CLOSE


def test_without_the_fused_kernels_plain_ones_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    fused_linear.has_packed_kernels.cache_clear()
    with caplog.at_level(logging.WARNING):
        stock, optimised = load_both(write_backbone(tmp_path, **WIDE))
    fused_linear.has_packed_kernels.cache_clear()
    assert "no fused linear layers" in caplog.text
    assert largest_difference(stock, optimised, random_pack(stock)) <= CLOSE
