"""Family × task × prompt kind: each combination from texts to answers, in a pack of all kinds and alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from family_table import PAGE, Cell, cells, page
from prefixrack.types import Parameters
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone, PackRow
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import AnyTask, build_task
from tiny import DECODERS, make_manifest, prepare_one, random_arrays, write_backbone

Logits = NDArray[np.float32]
LONG = "the cat sat on the mat in london and the dog sat on a street in paris"
INPUTS: dict[str, list[Any]] = {
    "text-classification": ["ada was born in paris", {"text": LONG, "text_pair": "the rain is on the city"}],
    "token-classification": [LONG, {"tokens": ["ada", "was", "born"]}],
    "question-answering": [{"question": "where is ada", "context": f"{LONG} where ada was born {LONG}"}],
    "multiple-choice": [{"text": "the rain is in", "choices": ["paris", LONG, "the sat"]}],
    "text-embedding": ["ada was born in paris", LONG],
}
PROMPTS: dict[str, dict[str, Any]] = {
    "deep prefix": {"prefix_len": 9},
    "soft prompt": {"prefix_len": 5, "prompt": "once"},
    "soft prompt, words embedded twice": {"prefix_len": 3, "prompt": "twice"},
    "none": {"prefix_len": 0},
}
CLOSE: dict[str, Any] = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(scope="module")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """One backbone for each family, however many cells it has."""

    @cache
    def load(family: str) -> Backbone:
        return Backbone.load(write_backbone(tmp_path_factory.mktemp(family), family), device="cpu")

    return load


def make_adapter(spec: BackboneSpec, task: str, prompt_kind: str, seed: int = 0) -> Adapter:
    is_per_token = task in ("token-classification", "question-answering")
    gather = "last_token" if spec.architecture in DECODERS and not is_per_token else None
    labels = ("O", "B-x", "I-x") if task == "token-classification" else ("no", "yes")
    manifest = make_manifest(spec, task=task, labels=labels, gather=gather, **PROMPTS[prompt_kind])
    arrays = random_arrays(manifest, spec.hidden_size, seed)
    return Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)


def neighbours(backbone: Backbone, around: Row) -> list[PackRow]:
    """A row of each kind of prompt, shorter and longer than the one they stand beside."""
    packed = []
    for index, kind in enumerate(PROMPTS):
        adapter = make_adapter(backbone.spec, "text-classification", kind, seed=7)
        ids = around.token_ids[: 2 + index] * (1 + index)
        packed.append(PackRow(own_row(backbone, adapter, ids), adapter))
    return packed


def own_row(backbone: Backbone, adapter: Adapter, ids: Sequence[int]) -> Row:
    prefix = adapter.manifest.prefix
    first = backbone.spec.first_position(prefix.prefix_len, prefix.positions)
    return Row(tuple(ids), (0,) * len(ids), first)


def without_prompt(backbone: Backbone, adapter: Adapter, row: Row) -> Logits:
    """The head's answer on the bare backbone's states, gathered here."""
    bare_row = replace(row, first_position=backbone.spec.base_position)
    states = torch.tensor(backbone.compute([PackRow(bare_row, None)])[0])
    head = adapter.head
    if head.is_pooled:
        return head(states[[-1 if head.gather == "last_token" else 0]])[0].numpy()
    return head(states).numpy()


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: "-".join(cell[:3]))
@torch.no_grad()
def test_cell(cell: Cell, backbone_of: Callable[[str], Backbone]) -> None:
    if cell.reason is not None:
        pytest.skip(cell.reason)
    backbone = backbone_of(cell.family)
    adapter = make_adapter(backbone.spec, cell.task, cell.prompt_kind)
    task: AnyTask = build_task(adapter.manifest, backbone.spec, backbone.tokenizer)
    for prepared in (prepare_one(task, value) for value in INPUTS[cell.task]):
        rows = [PackRow(row, adapter) for row in prepared.rows]
        before, after = neighbours(backbone, prepared.rows[0])[:2], neighbours(backbone, prepared.rows[-1])[2:]
        packed = backbone.compute([*before, *rows, *after])[2:-2]
        for entry, logits in zip(rows, packed, strict=True):
            check_row(backbone, cell, entry, logits)
        task.finish(prepared, packed, Parameters())


def check_row(backbone: Backbone, cell: Cell, entry: PackRow, logits: Logits) -> None:
    assert entry.adapter is not None
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, backbone.compute([entry])[0], **CLOSE)
    bare = without_prompt(backbone, entry.adapter, entry.row)
    if cell.prompt_kind == "none":
        np.testing.assert_allclose(logits, bare, **CLOSE)
    else:
        assert logits.shape == bare.shape
        assert np.abs(logits - bare).max() > 1e-2


def test_every_kind_of_prompt_has_neighbours() -> None:
    assert list(PROMPTS) == list(dict.fromkeys(cell.prompt_kind for cell in cells()))
    assert set(INPUTS) == {cell.task for cell in cells()}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"write {Path(PAGE).name} anew: python tests/family_table.py"
