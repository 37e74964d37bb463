"""A backbone with weights in int8: close to the same one in float32, and the same in any pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families import FAMILIES, int8_layer, int8_linear
from prefixrack_adapters.families.int8_linear import Int8Linear, check_products
from prefixrack_adapters.reference import BesideReference, load_reference
from prefixrack_adapters.rows import Row
from tiny import make_manifest, random_arrays, random_row, write_backbone

# With larger weights attention is so steep that bfloat16 is far from float32 too.
WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "initializer_range": 0.1}
IN_INT8 = ("bert", "electra", "roberta", "xlm-roberta")


def load(folder: Path) -> Backbone:
    backbone = Backbone.load(folder, device="cpu", dtype="int8")
    backbone.optimise_for_inference()
    return backbone


def adapters_for(backbone: Backbone) -> list[Adapter | None]:
    adapters: list[Adapter | None] = [None]
    for index, prefix_len in enumerate((0, 5, 16)):
        manifest = make_manifest(
            backbone.spec, name=f"a{index}", task="token-classification", labels=("O", "B-x"), prefix_len=prefix_len
        )
        arrays = random_arrays(manifest, backbone.spec.hidden_size, seed=index)
        adapters.append(Adapter.from_arrays(manifest, arrays, device="cpu", dtype=backbone.dtype))
    return adapters


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load(write_backbone(tmp_path_factory.mktemp("backbone"), **WIDE))


@pytest.mark.parametrize("family", IN_INT8)
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_hidden_states_are_close_to_those_in_float32(family: str, activation: str, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, family, hidden_act=activation, **WIDE)
    exact, narrow = Backbone.load(folder, device="cpu"), load(folder)
    assert (narrow.weights, exact.weights) == ("int8", "float32")
    random = [random_row(np.random.default_rng(seed), 3 + 5 * seed, 20) for seed in range(10)]
    rows = [Row(row.token_ids, (0,) * len(row), 20) for row in random]  # RoBERTa has one segment
    with torch.inference_mode():
        seen = narrow.hidden_states(rows, [None] * len(rows)).float()
        wanted = exact.hidden_states(rows, [None] * len(rows))
    assert seen.isfinite().all()
    assert 0 < float((seen - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.03


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=2, max_size=20), st.integers(0, 999))
def test_a_row_has_the_same_answer_alone_and_in_any_pack(
    quantised: Backbone, kinds: list[tuple[int, int]], seed: int
) -> None:
    """To the last bit: what is rounded to int8 looks at its own token alone, and heads add up in one order."""
    generator, adapters = np.random.default_rng(seed), adapters_for(quantised)
    pack = [PackRow(random_row(generator, length, 20), adapters[which]) for length, which in kinds]
    together = quantised.compute(pack)
    for entry, seen in zip(pack, together, strict=True):
        [alone] = quantised.compute([entry])
        np.testing.assert_array_equal(seen, alone)


def test_blocks_of_any_size_give_the_same(quantised: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    rows = [random_row(generator, length, 20) for length in (40, 7, 60, 1)]
    wanted = quantised.compute([PackRow(row, None) for row in rows])
    monkeypatch.setattr(int8_layer, "BLOCK_TOKENS", 10)
    for seen, one in zip(quantised.compute([PackRow(row, None) for row in rows]), wanted, strict=True):
        np.testing.assert_array_equal(seen, one)


def test_the_weights_of_the_layers_are_kept_in_int8_alone(quantised: Backbone) -> None:
    assert not [name for name, _ in quantised.model.named_parameters() if ".layer." in name]
    assert all(parameter.dtype == quantised.dtype for parameter in quantised.model.parameters())


def test_exact_rows_have_the_answers_of_the_original_weights(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, **WIDE)
    exact, narrow = Backbone.load(folder, device="cpu"), load(folder)
    beside = BesideReference(narrow, load_reference(folder))
    adapters, generator = adapters_for(narrow), np.random.default_rng(0)
    pack = [PackRow(random_row(generator, 5 + index, 20), adapters[index % 4]) for index in range(8)]
    mixed = [replace(entry, is_exact=index % 3 == 0) for index, entry in enumerate(pack)]
    of_exact = exact.compute([replace(one, adapter=one.adapter and one.adapter.to("cpu", exact.dtype)) for one in pack])
    for entry, seen, in_int8, in_float32 in zip(
        mixed, beside.launch(mixed).wait(), narrow.compute(pack), of_exact, strict=True
    ):
        wanted = in_float32 if entry.is_exact else in_int8
        np.testing.assert_allclose(seen, wanted, atol=1e-4, rtol=1e-4)
        assert np.abs(in_float32 - in_int8).max() > 1e-3
    np.testing.assert_array_equal(beside.launch(pack[:1]).wait()[0], narrow.compute(pack[:1])[0])


def test_each_output_has_a_scale_of_its_own() -> None:
    linear = torch.nn.Linear(32, 16)
    with torch.no_grad():
        linear.weight[3] *= 1000.0
        linear.weight[5] = 0.0
    layer = Int8Linear([linear])
    states = torch.randn(7, 32)
    seen = layer(layer.quantise(states), torch.empty(7, 16))
    wanted = linear(states).detach()
    assert ((seen - wanted).square().mean(0).sqrt() < 0.02 * (wanted.square().mean(0).sqrt() + 0.1)).all()


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(IN_INT8)))
def test_other_families_are_refused_by_name(family: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match="not computed in int8: those of bert, electra, roberta and xlm"):
        load(write_backbone(tmp_path, family))


def test_an_activation_or_device_that_int8_has_not_is_refused(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, hidden_act="silu")
    with pytest.raises(UnsupportedBackbone, match="hidden_act 'silu' is not computed in int8: gelu, gelu_new"):
        load(folder)
    with pytest.raises(UnsupportedBackbone, match="int8 is for CPUs, seen device 'cuda'"):
        Backbone.load(folder, device="cuda", dtype="int8")


def test_products_that_are_not_exact_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturating(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one.int() @ other.int()).clamp(-(1 << 15), (1 << 15) - 1)

    check_products()
    check_products.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    with pytest.raises(UnsupportedBackbone, match="int8 is not computed exactly here"):
        check_products()
    assert int8_linear.check_products.cache_info().currsize == 0
