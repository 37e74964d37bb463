"""Layers on matrix tiles against the same arithmetic in float32, and against each other in other company."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prefixrack_adapters.native.tile_layers as native
from no_compiler import refuse
from prefixrack_adapters.attention import Prefix
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families.fused_linear import Activation, activated
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
def test_no_tokens_are_no_work() -> None:
    assert on_tiles(random_linear(64, 32))(random(0, 64)).shape == (0, 32)


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
def test_without_tiles_the_same_backbone_is_computed_in_other_ways(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_backbone(tmp_path, **WIDE)
    monkeypatch.setattr(native, "compiled_tiles", lambda: None)
    without = Backbone.load_for_inference(folder, device="cpu", dtype="bfloat16")
    check_as_near_as_stock(folder, without, *pack_of(without, LENGTHS, PREFIX_LENS))
    assert without.family.compiles_sizes
    assert not backbone.family.compiles_sizes


def pack_of(backbone: Backbone, lengths: list[int], prefix_lens: list[int]) -> tuple[list[Row], list[Tensor | None]]:
    """Rows with prefixes of their own; 0 is none."""
    spec = backbone.spec
    shape = (spec.num_layers, 2, spec.num_kv_heads, spec.head_dim)
    prefixes: list[Tensor | None] = [
        random(*shape[:3], prefix_len, shape[3], seed=index) if prefix_len else None
        for index, prefix_len in enumerate(prefix_lens)
    ]
    return [entry.row for entry in rows_of(lengths)], prefixes


@torch.inference_mode()
def states_of(backbone: Backbone, rows: Sequence[Row], prefixes: Sequence[Prefix | None]) -> Tensor:
    return backbone.hidden_states(rows, prefixes).float()


def widened(prefix: Prefix | None) -> Prefix | None:
    if prefix is None or isinstance(prefix, Tensor):
        return None if prefix is None else prefix.float()
    return [None if layer is None else layer.float() for layer in prefix]


def check_as_near_as_stock(
    folder: Path, seen: Backbone, rows: Sequence[Row], prefixes: Sequence[Prefix | None]
) -> None:
    """To float32, by the root mean square: one number's error is luck."""
    exact = states_of(Backbone.load(folder, device="cpu"), rows, [widened(prefix) for prefix in prefixes])
    stock = states_of(Backbone.load(folder, device="cpu", dtype="bfloat16"), rows, prefixes)
    errors = [float((states - exact).square().mean()) for states in (states_of(seen, rows, prefixes), stock)]
    assert 0 < errors[0] <= 1.4 * errors[1]


LENGTHS, PREFIX_LENS = [1, 7, 30, 31, 64, 90] * 4, [16, 0, 3, 40, 128, 17] * 4


@needs_tiles
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("shared_cache_bytes", [0, 1 << 30])
def test_layers_with_prefixes(
    num_heads: int, shared_cache_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of 64, 32 and 16, of which the last have no tiles of their own; layer by layer, and all together."""
    monkeypatch.setattr(native, "SHARED_CACHE_BYTES", shared_cache_bytes)
    folder = write_backbone(tmp_path, **{**WIDE, "num_attention_heads": num_heads})
    seen = Backbone.load_for_inference(folder, device="cpu", dtype="bfloat16")
    check_as_near_as_stock(folder, seen, *pack_of(seen, LENGTHS, PREFIX_LENS))


@needs_tiles
@pytest.mark.usefixtures("threads")
def test_layers_of_which_some_have_no_prefix_or_another_length(tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, **WIDE)
    seen = Backbone.load_for_inference(folder, device="cpu", dtype="bfloat16")
    rows, wholes = pack_of(seen, LENGTHS, [24] * len(LENGTHS))
    by_layer = [[whole[0], None, whole[2, :, :, :5]] for whole in wholes if whole is not None]
    check_as_near_as_stock(folder, seen, rows, by_layer)


@needs_tiles
@pytest.mark.usefixtures("threads")
def test_a_row_that_is_not_finite_leaves_the_others_alone(backbone: Backbone) -> None:
    rows, prefixes = pack_of(backbone, LENGTHS, PREFIX_LENS)
    before = states_of(backbone, rows, prefixes).split(LENGTHS)
    faulty = prefixes[3]
    assert faulty is not None
    prefixes[3] = torch.full_like(faulty, torch.nan)
    after = states_of(backbone, rows, prefixes).split(LENGTHS)
    same = [torch.equal(seen, wanted) for seen, wanted in zip(after, before, strict=True)]
    assert same == [index != 3 for index in range(len(LENGTHS))]
    assert after[3].isnan().all()


@needs_tiles
def test_layers_of_which_tiles_compute_a_part(tmp_path: Path) -> None:
    """oneDNN computes the rest, for which packs are filled up."""
    folder = write_backbone(tmp_path, **{**WIDE, "intermediate_size": 80})
    seen = Backbone.load_for_inference(folder, device="cpu", dtype="bfloat16")
    check_as_near_as_stock(folder, seen, *pack_of(seen, LENGTHS, PREFIX_LENS))
    assert seen.family.compiles_sizes


def test_without_a_compiler_there_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "load_library", refuse)
    with caplog.at_level(logging.WARNING):
        assert compiled_tiles.__wrapped__() is None
    assert "no C compiler for tile_layers.c" in caplog.text
