"""Whole backbones with the GPU's kernels against the same ones on the CPU without them: every family, mixed packs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from interpreted_kernels import DEVICE, kernels_or_skip
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.manifest import DenseLayer, HeadSpec
from prefixrack_adapters.packing import row_spans
from prefixrack_adapters.rows import Row
from tiny import make_manifest, random_arrays, write_backbone

kernels_or_skip()

from prefixrack_adapters.gpu.attention import TritonAttention  # noqa: E402 - only where the kernels can run
from prefixrack_adapters.gpu.readout import HeadsTogether  # noqa: E402
from prefixrack_adapters.readout import PendingLogits  # noqa: E402

CLOSE = 3e-5  # relative; logits of random heads are sums in which much cancels


def random_adapters(backbone: Backbone) -> list[Adapter]:
    """Prefixes of three lengths; heads for a row and for every token, one of them with two layers."""
    adapters = []
    for index, prefix_len in enumerate((0, 3, 17)):
        task = "token-classification" if index == 1 else "text-classification"
        labels = ("O", "B-x") if index == 1 else tuple("abcdefgh"[: 2 + index])
        manifest = make_manifest(backbone.spec, name=f"a{index}", task=task, labels=labels, prefix_len=prefix_len)
        if index == 2:
            layers = (DenseLayer(num_outputs=24, activation="tanh"), *manifest.head.layers)
            manifest = manifest.model_copy(update={"head": HeadSpec(gather=manifest.head.gather, layers=layers)})
        arrays = random_arrays(manifest, backbone.spec.hidden_size, seed=index)
        adapters.append(Adapter.from_arrays(manifest, arrays, device=backbone.device, dtype=backbone.dtype))
    return adapters


def random_pack(backbone: Backbone, adapters: list[Adapter | None], dimensions: int) -> list[PackRow]:
    generator = np.random.default_rng(1)
    pack = []
    for index in range(7):
        length = int(generator.integers(1, 40))
        ids = tuple(generator.integers(5, backbone.spec.vocab_size, length).tolist())
        row = Row(ids, (0,) * length, 17 if dimensions == 1 else 0)
        if dimensions == 2:
            row = Row(ids, (0,) * length, 0, position_ids=(tuple(range(length)), (0,) * length), context_len=length)
        pack.append(PackRow(row, adapters[index % len(adapters)]))
    return pack


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_kernels_change_nothing_but_the_last_bits(family: str, tmp_path: Path) -> None:
    folder = write_backbone(tmp_path, family)
    plain = Backbone.load(folder, device="cpu")
    with_kernels = Backbone.load(folder, device=DEVICE)
    with_kernels.optimise_for_inference()
    with_kernels.attention = TritonAttention()
    dimensions = 2 if family == "glm-2021" else 1
    wanted = plain.compute(random_pack(plain, [None, *random_adapters(plain)], dimensions))
    pack = random_pack(with_kernels, [None, *random_adapters(with_kernels)], dimensions)
    rows = [entry.row for entry in pack]
    with torch.inference_mode():
        hidden = with_kernels.hidden_states(rows, [None if one.adapter is None else one.adapter.layers for one in pack])
        heads = {index: None if one.adapter is None else one.adapter.head for index, one in enumerate(pack)}
        readings = HeadsTogether().read(hidden, row_spans(rows, [None] * len(rows)), heads)
    seen = PendingLogits(readings, range(len(pack))).wait()
    for own, other in zip(seen, wanted, strict=True):
        assert own.shape == other.shape
        assert np.abs(own - other).max() <= CLOSE * max(1.0, float(np.abs(other).max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packs_under_way_together_give_what_each_gives_alone(dtype: str, tmp_path: Path) -> None:
    """The next pack is launched before the one before it is waited for, as the engine does."""
    backbone = Backbone.load(write_backbone(tmp_path), device="cuda", dtype=dtype)
    backbone.optimise_for_inference()
    adapters = random_adapters(backbone)
    packs = [random_pack(backbone, [one], 1) for one in (None, *adapters)]
    alone = [backbone.compute(pack) for pack in packs]
    pending = [backbone.launch(pack) for pack in packs]
    for launched, wanted in zip(pending, alone, strict=True):
        for seen, one in zip(launched.wait(), wanted, strict=True):
            np.testing.assert_array_equal(seen, one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "deberta", "deberta-v2"])
def test_recorded_passes_give_what_calls_one_by_one_give(family: str, tmp_path: Path) -> None:
    """Packs of many sizes, each recorded when it first comes, and again after others have used the same memory."""
    folder = write_backbone(tmp_path, family)
    recorded, one_by_one = (Backbone.load(folder, device="cuda") for _ in range(2))
    recorded.optimise_for_inference()
    one_by_one.optimise_for_inference(record_passes=False)
    adapters = random_adapters(recorded)
    whole = random_pack(recorded, [None, *adapters], 1)
    for num_rows in (1, 7, 2, 5, 7, 1):
        pack = whole[:num_rows] * 3
        for seen, wanted in zip(recorded.compute(pack), one_by_one.compute(pack), strict=True):
            assert np.abs(seen - wanted).max() <= CLOSE * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_loaded_for_inference_computes_what_the_stock_model_does(
    family: str, dtype: str, tmp_path: Path
) -> None:
    """BERT's form is loaded without the stock model, mapped, cast and only then moved. In bfloat16 both round, each at
    places of its own: what is served may be off by little more than the stock model is."""
    folder = write_backbone(tmp_path, family)
    exact = Backbone.load(folder, "cpu")
    stock, served = Backbone.load(folder, "cuda", dtype), Backbone.load_for_inference(folder, "cuda", dtype)
    assert {parameter.device.type for parameter in served.model.parameters()} == {"cuda"}
    seen, plain, wanted = (
        np.concatenate([logits.ravel() for logits in one.compute(random_pack(one, [None, *random_adapters(one)], 1))])
        for one in (served, stock, exact)
    )
    size = np.linalg.norm(wanted)
    assert np.linalg.norm(seen - wanted) <= 1.25 * np.linalg.norm(plain - wanted) + CLOSE * size
    assert np.linalg.norm(seen - wanted) <= 0.05 * size


def test_what_is_compiled_at_the_start_runs_on_the_backbones_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another one is current, a kernel cannot read what lies on this."""
    events: list[str] = []

    @contextmanager
    def current(device: str) -> Iterator[None]:
        events.append(device)
        yield
        events.append("left")

    backbone = Backbone.load(write_backbone(tmp_path), "cpu")
    backbone.device = "cuda:1"
    monkeypatch.setattr("prefixrack_adapters.backbone.current", current)
    monkeypatch.setattr("prefixrack_adapters.backbone.has_kernels", lambda: True)
    monkeypatch.setattr(HeadsTogether, "compiled", lambda *_: events.append("compiled"))
    backbone.optimise_for_inference(record_passes=False)
    assert events == ["cuda:1", "compiled", "left"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device on this machine")
def test_a_gpu_that_is_not_the_current_one_computes_the_same(tmp_path: Path) -> None:
    """Kernels of our own run on the current device, and an event waits for its work alone."""
    folder = write_backbone(tmp_path)
    packs = []
    for device in ("cuda:0", "cuda:1"):
        backbone = Backbone.load_for_inference(folder, device)
        packs.append(backbone.compute(random_pack(backbone, [None, *random_adapters(backbone)], 1)))
    for first, second in zip(*packs, strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5)
