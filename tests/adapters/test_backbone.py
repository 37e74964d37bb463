"""The packed forward pass against the slow obvious one, in any mix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefixrack.errors import BackboneMismatch, PositionOutOfRange, TokenOutOfRange, UnsupportedBackbone
from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.attention import RowLoop
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from reference import ReferenceAdapter, ReferenceModel
from tiny import (
    FAMILIES,
    MAX_POSITIONS,
    WORDS,
    make_manifest,
    prepare_one,
    random_arrays,
    vocabulary,
    write_backbone,
    write_random_bundle,
)

TASK_CHOICES = ("text-classification", "token-classification", "question-answering", "multiple-choice")
PREFIX_LENGTHS = (0, 1, 3, 16, 128)
RELATIVE = 1e-5
LOGIT_SCALE = 32**0.5  # of a sum of 32 terms of size 1, as the random heads make it: near zero they only cancel


@pytest.fixture(scope="module")
def reference(backbone_folder: Path) -> ReferenceModel:
    return ReferenceModel(backbone_folder)


@pytest.fixture(scope="module")
def adapters(spec: BackboneSpec) -> list[tuple[Adapter, ReferenceAdapter]]:
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
        adapter = Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)
        plain = ReferenceAdapter(
            manifest.model_dump(mode="json"), {name: torch.tensor(values) for name, values in arrays.items()}
        )
        made.append((adapter, plain))
    return made


def assert_close(seen: np.ndarray, wanted: np.ndarray, least_scale: float = 1.0) -> None:
    scale = max(least_scale, float(np.abs(wanted).max()))
    assert np.abs(seen - wanted).max() <= RELATIVE * scale


def random_row(generator: np.random.Generator, length: int, first_position: int) -> Row:
    ids = generator.integers(0, len(vocabulary()), length)
    segments = np.sort(generator.integers(0, 2, length))
    return Row(tuple(ids.tolist()), tuple(segments.tolist()), first_position)


def test_reference_agrees_with_stock_where_there_is_no_prefix(reference: ReferenceModel) -> None:
    row = random_row(np.random.default_rng(1), 20, 0)
    ids, segments = list(row.token_ids), list(row.segment_ids)
    ours = reference.hidden_states(ids, segments, 0, None)
    assert_close(ours.numpy(), reference.stock_hidden_states(ids, segments, 0).numpy())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 64)), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_pack_equals_solo_reference_runs(
    backbone: Backbone,
    reference: ReferenceModel,
    adapters: list[tuple[Adapter, ReferenceAdapter]],
    members: list[tuple[int, int]],
    seed: int,
) -> None:
    """Member (a, n): a row of n tokens for adapter a, or for the bare backbone where a is past the last."""
    generator = np.random.default_rng(seed)
    pack, wanted = [], []
    for index, length in members:
        adapter, plain = adapters[index] if index < len(adapters) else (None, None)
        first = 0
        if adapter is not None:
            prefix = adapter.manifest.prefix
            first = backbone.spec.first_position(prefix.prefix_len, prefix.positions)
        row = random_row(generator, min(length, MAX_POSITIONS - first), first)
        pack.append(PackRow(row, adapter))
        ids, segments = list(row.token_ids), list(row.segment_ids)
        if plain is None:
            wanted.append(reference.hidden_states(ids, segments, first, None).numpy())
        else:
            wanted.append(reference.logits(plain, ids, segments, first))
    for seen, expected in zip(backbone.compute(pack), wanted, strict=True):
        assert seen.shape == expected.shape
        assert_close(seen, expected, LOGIT_SCALE)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(12)), seed=st.integers(0, 2**32 - 1))
def test_hidden_states_do_not_depend_on_row_order(backbone: Backbone, order: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [random_row(generator, int(length), 0) for length in generator.integers(1, 40, 12)]
    prefixes = [
        torch.tensor(generator.normal(size=(2, 2, 4, int(length), 8)), dtype=torch.float32) if length else None
        for length in generator.integers(0, 20, 12)
    ]
    solo = [backbone.hidden_states([row], [prefix]) for row, prefix in zip(rows, prefixes, strict=True)]
    packed = backbone.hidden_states([rows[i] for i in order], [prefixes[i] for i in order])
    for index, part in zip(order, packed.split([len(rows[i]) for i in order]), strict=True):
        assert_close(part.numpy(), solo[index].numpy())


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
def test_pack_on_a_gpu_equals_the_cpu(
    backbone_folder: Path, backbone: Backbone, adapters: list[tuple[Adapter, ReferenceAdapter]]
) -> None:
    on_gpu = Backbone.load(backbone_folder, device="cuda")
    generator = np.random.default_rng(8)
    pack = []
    for adapter in [None, *(adapter for adapter, _ in adapters)]:
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


def test_answers_do_not_depend_on_the_pack(
    backbone: Backbone, adapters: list[tuple[Adapter, ReferenceAdapter]]
) -> None:
    """Solo and in one mixed pack with every other adapter: the same outputs, scores to 1e-5."""
    prepared: list[Any] = []
    pack: list[PackRow] = []
    solo = []
    for adapter, _ in adapters:
        task = build_task(adapter.manifest, backbone.spec, backbone.tokenizer)
        one = prepare_one(task, task.default_example())
        prepared.append((task, one))
        pack.extend(PackRow(row, adapter) for row in one.rows)
        solo.append(backbone.predict(adapter, task.default_example())[0].model_dump())
    logits = iter(backbone.compute(pack))
    for (task, one), alone in zip(prepared, solo, strict=True):
        mixed = task.finish(one, [next(logits) for _ in one.rows], Parameters()).model_dump()
        assert_same_answer(mixed, alone)


@pytest.fixture(scope="module")
def long_adapters(spec: BackboneSpec) -> list[Adapter]:
    """Every task × prefix length, rows as long as the backbone takes; longer inputs make several rows or are cut."""
    made = []
    for index, (task, prefix_len) in enumerate((task, length) for task in TASK_CHOICES for length in PREFIX_LENGTHS):
        manifest = make_manifest(
            spec,
            name=f"long{index}",
            task=task,
            labels=("O", "B-x", "I-x"),
            prefix_len=prefix_len,
            max_len=MAX_POSITIONS,
            decoding={"no_answer": bool(index % 2), "n_best": 3},
            overlong="truncate" if task == "multiple-choice" else "window",
            stride=16,
        )
        arrays = random_arrays(manifest, spec.hidden_size, seed=100 + index)
        made.append(Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32))
    return made


def random_input(task: str, num_words: int, generator: np.random.Generator) -> object:
    text = " ".join(generator.choice(WORDS, num_words))
    match task:
        case "question-answering":
            return {"question": "where was ada born", "context": text}
        case "multiple-choice":
            return {"text": text, "choices": ["the cat", "a dog sat", "rain"]}
        case "token-classification":
            return {"tokens": text.split()}
    return text


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(st.tuples(st.integers(0, 19), st.integers(1, 300)), min_size=1, max_size=8),
    max_rows=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_answers_are_the_same_in_any_packs(
    backbone: Backbone, long_adapters: list[Adapter], asked: list[tuple[int, int]], max_rows: int, seed: int
) -> None:
    """Member (a, n): an input of n words for adapter a. All rows, shuffled and cut into packs, against packs of one."""
    generator = np.random.default_rng(seed)
    inputs, rows = [], list[PackRow]()
    for index, num_words in asked:
        adapter = long_adapters[index]
        task = build_task(adapter.manifest, backbone.spec, backbone.tokenizer)
        one = prepare_one(task, random_input(task.name, num_words, generator))
        inputs.append((task, one))
        rows.extend(PackRow(row, adapter) for row in one.rows)
    order = generator.permutation(len(rows)).tolist()
    packed: dict[int, Any] = {}
    for start in range(0, len(order), max_rows):
        members = order[start : start + max_rows]
        packed |= zip(members, backbone.compute([rows[member] for member in members]), strict=True)
    mixed = iter([packed[index] for index in range(len(rows))])
    alone = iter([backbone.compute([row])[0] for row in rows])
    for task, one in inputs:
        seen, wanted = (task.finish(one, [next(logits) for _ in one.rows], Parameters()) for logits in (mixed, alone))
        assert_same_answer(seen.model_dump(), wanted.model_dump())


def assert_same_answer(seen: object, wanted: object) -> None:
    if isinstance(wanted, float):
        assert seen == pytest.approx(wanted, abs=1e-5)
    elif isinstance(wanted, dict):
        assert isinstance(seen, dict)
        assert seen.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_same_answer(seen[name], value)
    elif isinstance(wanted, list):
        assert isinstance(seen, list)
        assert len(seen) == len(wanted)
        for left, right in zip(seen, wanted, strict=True):
            assert_same_answer(left, right)
    else:
        assert seen == wanted


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
