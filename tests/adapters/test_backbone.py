"""The backbone: every family, gradients, devices and dtypes, and what it refuses. `test_any_pack.py` has the mixes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from prefixrack.errors import BackboneMismatch, PositionOutOfRange, TokenOutOfRange, UnsupportedBackbone
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.attention import RowLoop
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.devices import fastest_dtype, resolve_dtype
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from reference import ReferenceModel
from tiny import (
    FAMILIES,
    MAX_POSITIONS,
    make_manifest,
    random_arrays,
    random_row,
    write_backbone,
    write_random_bundle,
)

TASK_CHOICES = ("text-classification", "token-classification", "question-answering", "multiple-choice")
PREFIX_LENGTHS = (0, 1, 3, 16, 128)
RELATIVE = 1e-5


@pytest.fixture(scope="module")
def reference(backbone_folder: Path) -> ReferenceModel:
    return ReferenceModel(backbone_folder)


@pytest.fixture(scope="module")
def adapters(spec: BackboneSpec) -> list[Adapter]:
    """Every task × prefix length, with and without a pooler in the head, positions moved and not."""
    made = []
    for index, (task, prefix_len) in enumerate((task, length) for task in TASK_CHOICES for length in PREFIX_LENGTHS):
        manifest = make_manifest(
            spec,
            name=f"a{index}",
            task=task,
            labels=("O", "B-x", "I-x"),
            prefix_len=prefix_len,
            max_len=64,
            positions="after_prefix" if index % 2 else "unmoved",
            has_pooler=index % 3 == 0 and task in ("text-classification", "multiple-choice"),
        )
        arrays = random_arrays(manifest, spec.hidden_size, seed=index)
        made.append(Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32))
    return made


def assert_close(seen: np.ndarray, wanted: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(wanted).max()))
    assert np.abs(seen - wanted).max() <= RELATIVE * scale


def test_reference_agrees_with_stock_where_there_is_no_prefix(reference: ReferenceModel) -> None:
    row = random_row(np.random.default_rng(1), 20, 0)
    ids, segments = list(row.token_ids), list(row.segment_ids)
    ours = reference.hidden_states(ids, segments, 0, None)
    assert_close(ours.numpy(), reference.stock_hidden_states(ids, segments, 0).numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_the_reference(family: str, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, family, seed=3)
    packed, slow = Backbone.load(folder, device="cpu"), ReferenceModel(folder)
    generator = np.random.default_rng(0)
    rows, prefixes = [], []
    for length, prefix_len in ((1, 0), (7, 5), (33, 128), (7, 5), (12, 1)):
        row = random_row(generator, length, packed.spec.first_position(prefix_len, "after_prefix"))
        rows.append(Row(row.token_ids, (0,) * length, row.first_position))
        values = generator.normal(size=(2, 2, prefix_len, 4, 8)).astype(np.float32)
        prefixes.append(torch.tensor(values) if prefix_len else None)
    served = [None if prefix is None else prefix.transpose(2, 3) for prefix in prefixes]
    hidden = packed.hidden_states(rows, served).split([len(row) for row in rows])
    for row, prefix, seen in zip(rows, prefixes, hidden, strict=True):
        wanted = slow.hidden_states(list(row.token_ids), list(row.segment_ids), row.first_position, prefix)
        assert_close(seen.numpy(), wanted.numpy())


def test_gradients_of_a_pack_equal_the_sum_of_solo_gradients(backbone: Backbone) -> None:
    assert backbone.attention.supports_backward
    generator = np.random.default_rng(5)
    rows = [random_row(generator, length, 3) for length in (4, 4, 9, 2)]
    prefix = torch.tensor(generator.normal(size=(2, 2, 4, 3, 8)), dtype=torch.float32, requires_grad=True)

    def gradient(groups: list[list[Row]]) -> torch.Tensor:
        prefix.grad = None
        for group in groups:
            backbone.hidden_states(group, [prefix] * len(group)).square().sum().backward()
        assert prefix.grad is not None
        return prefix.grad.clone()

    assert_close(gradient([rows]).numpy(), gradient([[row] for row in rows]).numpy())


def test_attention_in_another_dtype_returns_the_models_own(backbone_folder: Path) -> None:
    backbone = Backbone.load(backbone_folder, device="cpu", dtype="bfloat16")
    row = random_row(np.random.default_rng(2), 9, 0)
    exact = Backbone.load(backbone_folder, device="cpu").hidden_states([row], [None])
    for attention in (RowLoop(), RowLoop(torch.float32)):
        backbone.attention = attention
        hidden = backbone.hidden_states([row], [None])
        assert hidden.dtype == torch.bfloat16
        assert (hidden.float() - exact).abs().max() < 0.15


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_pack_on_a_gpu_equals_the_cpu(backbone_folder: Path, backbone: Backbone, adapters: list[Adapter]) -> None:
    on_gpu = Backbone.load(backbone_folder, device="cuda")
    generator = np.random.default_rng(8)
    pack = []
    for adapter in [None, *adapters]:
        first = 0 if adapter is None else on_gpu.spec.first_position(adapter.manifest.prefix.prefix_len, "after_prefix")
        pack.append(PackRow(random_row(generator, int(generator.integers(1, 64)), first), adapter))
    moved = [
        PackRow(entry.row, None if entry.adapter is None else entry.adapter.to(on_gpu.device, on_gpu.dtype))
        for entry in pack
    ]
    for seen, wanted in zip(on_gpu.compute(moved), backbone.compute(pack), strict=True):
        assert np.abs(seen - wanted).max() <= 1e-4 * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_an_adapter_loaded_as_it_comes_predicts_on_a_gpu(
    backbone_folder: Path, backbone: Backbone, tmp_path: Path
) -> None:
    adapter = Adapter.load(write_random_bundle(tmp_path, backbone.spec, has_pooler=True))
    (wanted,) = backbone.predict(adapter, "the cat sat")
    (seen,) = Backbone.load(backbone_folder, device="cuda").predict(adapter, "the cat sat")
    assert seen.model_dump()["label"] == wanted.model_dump()["label"]
    assert seen.model_dump()["score"] == pytest.approx(wanted.model_dump()["score"], abs=1e-3)


def test_an_adapter_follows_the_backbones_dtype_and_its_head_does_not(backbone_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(backbone_folder, device="cpu", dtype="bfloat16")
    folder = write_random_bundle(tmp_path, backbone.spec, has_pooler=True)
    adapter = Adapter.load(folder)
    moved = adapter.to(backbone.device, backbone.dtype)
    assert adapter.prefix is not None
    assert moved.prefix is not None
    assert (adapter.prefix.dtype, moved.prefix.dtype) == (torch.float32, torch.bfloat16)
    assert {layer.weight.dtype for layer in moved.head.layers} == {torch.float32}
    assert moved.digest == adapter.digest
    direct = Adapter.load(folder, dtype=torch.bfloat16)
    assert backbone.predict(adapter, "the cat sat") == backbone.predict(direct, "the cat sat")


def test_prediction_brings_the_adapter_to_the_backbone(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(backbone_folder, device="cpu", dtype="bfloat16")
    compute, dtypes = backbone.compute, list[torch.dtype]()

    def listening(pack: Sequence[PackRow]) -> list[np.ndarray]:
        prefixes = [entry.adapter.prefix for entry in pack if entry.adapter is not None]
        dtypes.extend(prefix.dtype for prefix in prefixes if prefix is not None)
        return compute(pack)

    monkeypatch.setattr(backbone, "compute", listening)
    backbone.predict(Adapter.load(write_random_bundle(tmp_path, backbone.spec)), "the cat sat")
    assert dtypes == [torch.bfloat16]


def test_without_a_prefix_there_is_none_to_move(backbone: Backbone, tmp_path: Path) -> None:
    adapter = Adapter.load(write_random_bundle(tmp_path, backbone.spec, prefix_len=0))
    assert adapter.to("cpu", torch.bfloat16).prefix is None


@pytest.mark.parametrize(
    ("row", "fault", "mentions"),
    [
        (Row((), (), 0), TokenOutOfRange, "at least one"),
        (Row((10_000,), (0,), 0), TokenOutOfRange, "10000"),
        (Row((-1,), (0,), 0), TokenOutOfRange, "-1"),
        (Row((1, 2), (0,), 0), TokenOutOfRange, "1 segment ids for 2 tokens"),
        (Row((1,), (2,), 0), TokenOutOfRange, "segment"),
        (Row((1, 1), (0, 0), MAX_POSITIONS - 1), PositionOutOfRange, str(MAX_POSITIONS - 1)),
        (Row((1,), (0,), -1), PositionOutOfRange, "-1"),
    ],
)
def test_rows_out_of_range_are_refused(backbone: Backbone, row: Row, fault: type[Exception], mentions: str) -> None:
    with pytest.raises(fault, match=mentions):
        backbone.check(row)


def test_unknown_family_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UnsupportedBackbone, match=r"'t5'.*albert, bert, .*roberta, xlm-roberta"):
        Backbone.load(tmp_path)


def test_adapter_of_another_backbone_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    other = BackboneSpec.load(write_backbone(tmp_path / "other", seed=9))
    adapter = Adapter.load(write_random_bundle(tmp_path / "bundle", other))
    with pytest.raises(BackboneMismatch, match="fingerprint"):
        backbone.predict(adapter, "the cat")


def test_predict_from_a_bundle_without_any_server(backbone: Backbone, tmp_path: Path) -> None:
    adapter = Adapter.load(write_random_bundle(tmp_path, backbone.spec))
    good, empty = backbone.predict(adapter, ["the cat sat", " "])
    assert good.model_dump()["label"] in ("no", "yes")
    assert empty.model_dump()["error"]["code"] == "empty_input"


def test_core_needs_neither_pydantic_nor_the_manifest() -> None:
    code = (
        "import sys; import prefixrack_adapters.backbone, prefixrack_adapters.attention, prefixrack_adapters.heads;"
        "print([name for name in ('pydantic', 'prefixrack_adapters.manifest') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_importing_the_library_loads_no_torch() -> None:
    code = (
        "import sys; import prefixrack_adapters, prefixrack_adapters.tasks, prefixrack_adapters.bundle,"
        "prefixrack_adapters.tokenizer, prefixrack_adapters.spec; print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_auto_means_exact_in_the_library_and_fast_where_it_serves() -> None:
    assert resolve_dtype("auto") == torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert fastest_dtype("cpu") == ("bfloat16" if fast else "float32")
