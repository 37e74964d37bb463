"""Layers on matrix tiles against the same arithmetic in float32, and against each other in other company."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prefixrack_adapters.native.tile_layers as native
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families.fused_linear import Activation, activated
from prefixrack_adapters.native.compiler import NoCompiler
from prefixrack_adapters.native.tile_layers import TileLayerEnd, TileLinear, compiled_tiles
from prefixrack_adapters.rows import Row
from tiny import write_backbone

WIDE: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 96}
NUM_TOKENS = [1, 31, 32, 33, 300, 1500]  # few are computed by all threads together, many in chunks
needs_tiles = pytest.mark.skipif(compiled_tiles() is None, reason="this processor has no matrix tiles (AMX)")


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def random_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(random(outputs, inputs) / inputs**0.5)
        linear.bias.copy_(random(outputs, seed=1))
    return linear.requires_grad_(False)


def on_tiles(linear: nn.Linear) -> TileLinear:
    tiles = TileLinear.of(linear.weight, linear.bias)
    assert tiles is not None
    return tiles


def exact(linear: nn.Linear, states: Tensor) -> Tensor:
    return F.linear(states.float(), linear.weight.float(), linear.bias.float())


@needs_tiles
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 64), (384, 1536), (1536, 384)])
@torch.inference_mode()
def test_a_linear_layer(num_tokens: int, inputs: int, outputs: int) -> None:
    linear, states = random_linear(inputs, outputs), random(num_tokens, inputs)
    seen = on_tiles(linear)(states)
    torch.testing.assert_close(seen.float(), exact(linear, states), atol=1e-4, rtol=2**-8)


@needs_tiles
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
@torch.inference_mode()
def test_with_an_activation(activation: Activation) -> None:
    linear, states = random_linear(64, 96), random(50, 64) * 3
    seen = on_tiles(linear)(states, activation)
    wanted = activated(exact(linear, states), activation)
    torch.testing.assert_close(seen.float(), wanted, atol=1e-4, rtol=2**-8)


@needs_tiles
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@torch.inference_mode()
def test_the_end_of_a_layer(num_tokens: int) -> None:
    width, wide = 64, 96
    output, up, down = (random_linear(*shape) for shape in ((width, width), (width, wide), (wide, width)))
    norms = [nn.LayerNorm(width, dtype=torch.bfloat16).requires_grad_(False) for _ in range(2)]
    for seed, norm in enumerate(norms):
        norm.weight.copy_(random(width, seed=seed))
        norm.bias.copy_(random(width, seed=seed + 2))
    end = TileLayerEnd([on_tiles(part) for part in (output, up, down)], norms, "gelu")
    attended, hidden = random(num_tokens, width, seed=3), random(num_tokens, width, seed=4)

    def normalised(norm: nn.LayerNorm, states: Tensor) -> Tensor:
        return F.layer_norm(states, (width,), norm.weight.float(), norm.bias.float(), norm.eps)

    middle = normalised(norms[0], exact(output, attended) + hidden.float())
    wanted = normalised(norms[1], exact(down, F.gelu(exact(up, middle))) + middle)
    torch.testing.assert_close(end(attended, hidden).float(), wanted, atol=0.05, rtol=0.02)


@needs_tiles
@torch.inference_mode()
def test_what_is_not_finite_stays_in_its_token() -> None:
    states = random(40, 64)
    states[33, 5] = torch.inf
    seen = on_tiles(random_linear(64, 32))(states, "gelu")
    assert seen.isfinite().all(dim=1).logical_not().nonzero().flatten().tolist() == [33]


@pytest.mark.parametrize("linear", [nn.Linear(48, 64).bfloat16(), nn.Linear(64, 48).bfloat16(), nn.Linear(64, 64)])
def test_what_tiles_do_not_compute(linear: nn.Linear) -> None:
    assert TileLinear.of(linear.weight, linear.bias) is None


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return Backbone.load_for_inference(write_backbone(tmp_path, **WIDE), device="cpu", dtype="bfloat16")


def rows_of(lengths: list[int]) -> list[PackRow]:
    rows = [tuple(5 + (7 * length + at) % 50 for at in range(length)) for length in lengths]
    return [PackRow(Row(ids, (0,) * len(ids), 0), None) for ids in rows]


@needs_tiles
@pytest.mark.usefixtures("threads")
def test_a_row_has_the_same_states_to_the_last_bit_in_any_company(backbone: Backbone) -> None:
    """Alone all threads compute it together; in a large pack one of them does, behind rows of any length."""
    lengths = [1, 5, 16, 17, 32, 33, 40, 61]
    together = backbone.compute(rows_of(lengths * 12))
    for index, entry in enumerate(rows_of(lengths)):
        alone = backbone.compute([entry])[0]
        assert all(np.array_equal(alone, together[index + len(lengths) * time]) for time in range(12))


@needs_tiles
def test_a_backbone_on_tiles_is_as_near_to_float32_as_one_without(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_backbone(tmp_path, **WIDE)
    pack = rows_of([9, 30, 64] * 9)
    wanted = np.concatenate(Backbone.load(folder, device="cpu").compute(pack))
    monkeypatch.setattr(native, "compiled_tiles", lambda: None)
    without = Backbone.load_for_inference(folder, device="cpu", dtype="bfloat16")
    errors = [np.square(np.concatenate(which.compute(pack)) - wanted).mean() for which in (backbone, without)]
    assert 0 < errors[0] <= 1.2 * errors[1]
    assert without.family.compiles_sizes
    assert not backbone.family.compiles_sizes


def test_without_a_compiler_there_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: Path) -> None:
        raise NoCompiler(f"no C compiler for {source.name}")

    monkeypatch.setattr(native, "load_library", refuse)
    with caplog.at_level(logging.WARNING):
        assert compiled_tiles.__wrapped__() is None
    assert "no C compiler for tile_layers.c" in caplog.text
