"""Adapters as other tools wrote them, imported and run, against the outputs that those tools computed themselves.

The cases are folders of a collection that is not part of the project; PREFIXRACK_REFERENCE_CASES names it. Below it
are `backbones/NAME/` and `cases/NAME/` with `adapter/` (the tool's files), `inputs.json` (token ids, one unpadded row
each), `expected.npz` (`INPUT.logits`, `.start_logits`, `.question_embedding`, ...) and `meta.json` (tool, kind,
backbone, task, labels).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.embedded import EMBEDDED_PACKAGE
from prefixrack_adapters.importers.run import run_import

VARIABLE = "PREFIXRACK_REFERENCE_CASES"
ATOL = 1e-4
MINILM = "minilm"  # not copied into the collection: it is the embedded backbone
IMPORTER_OF_KIND = {
    "prefix": "thudm",
    "pt_shallow": "thudm",
    "dpr_prefix": "thudm",
    "ah_prefix": "adapterhub",
    "peft_prefix": "peft",
    "peft_prompt": "peft",
    "peft_ptuning": "peft",
}
TELL_NO_LABELS = ("peft", "adapterhub", "sat")
ROW_FIELDS = ("input_ids", "token_type_ids", "position_ids", "context_length", "answer_ids")
TOWERS = {"question": "question_embedding", "context": "ctx_embedding"}
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    folder: Path

    @property
    def meta(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "meta.json").read_text(encoding="utf-8")))

    @property
    def backbone(self) -> str:
        return str(self.meta["backbone"])

    @property
    def importer(self) -> str:
        kind = str(self.meta["kind"])
        return "sat" if kind.startswith("sat") else IMPORTER_OF_KIND[kind]

    @property
    def expected(self) -> Arrays:
        stored = np.load(self.folder / "expected.npz")
        return {key: stored[key] for key in stored.files if "_padded" not in key}

    @property
    def inputs(self) -> list[dict[str, Any]]:
        return list(json.loads((self.folder / "inputs.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Asked:
    """One row for `Backbone.logits`, and where its answer belongs: input id and what stands after it in the key."""

    input_id: str
    suffix: str
    adapter: Adapter
    fields: Mapping[str, Any]


def find_cases() -> list[Case]:
    collection = os.environ.get(VARIABLE)
    folders = sorted(Path(collection, "cases").glob("*/meta.json")) if collection else []
    return [Case(path.parent) for path in folders]


CASES = find_cases()
NO_CASES = f"{VARIABLE} names no folder with reference cases"
AskedOf = Callable[[Case], list[Asked]]
LoadBackbone = Callable[[str], Backbone]


def backbone_folder(name: str) -> Path:
    if name != MINILM:
        return Path(os.environ[VARIABLE], "backbones", name)
    if find_spec(EMBEDDED_PACKAGE) is None:
        pytest.skip(f"{EMBEDDED_PACKAGE}, the backbone of this case, is not installed")
    return Path(import_module(EMBEDDED_PACKAGE).get_model_path())


@pytest.fixture(scope="module", params=["load", "load_for_inference"])
def load_backbone(request: pytest.FixtureRequest) -> LoadBackbone:
    """As it is trained and evaluated, and as it is served."""
    load = getattr(Backbone, request.param)
    return cache(lambda name: load(backbone_folder(name), device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def asked_of(tmp_path_factory: pytest.TempPathFactory) -> AskedOf:
    """The rows of a case; it is imported once, whoever asks."""
    out = tmp_path_factory.mktemp("bundles")
    return cache(lambda case: list(ask(case, out / case.folder.name)))


def ask(case: Case, out: Path) -> Iterator[Asked]:
    with tempfile.TemporaryDirectory() as scratch:
        source = whole_checkpoint(case, Path(scratch) / case.folder.name)
        for tower in TOWERS if case.meta["kind"] == "dpr_prefix" else (None,):
            bundle = import_case(case, source, out / (tower or "only"), tower)
            adapter = Adapter.load(bundle)
            suffix = "logits" if tower is None else TOWERS[tower]
            for one in case.inputs:
                for fields in rows_of(one):
                    yield Asked(one["id"], suffix, adapter, fields)


def import_case(case: Case, source: Path, out: Path, tower: str | None) -> Path:
    labels = case.meta.get("labels") if case.importer in TELL_NO_LABELS else None
    run_import(case.importer, source, str(backbone_folder(case.backbone)), out, tower=tower, labels=labels)
    return out


def rows_of(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """An input is one row; of multiple choice it is one row for each choice."""
    fields = {name: one[name] for name in ROW_FIELDS if one.get(name) is not None}
    if not isinstance(one["input_ids"][0], list):
        yield fields
        return
    for index in range(len(one["input_ids"])):
        yield {name: values[index] for name, values in fields.items()}


def whole_checkpoint(case: Case, scratch: Path) -> Path:
    """The case's adapter folder; where only the trained tensors were kept of it, with the backbone's put back.

    The names are those of the original classes: a model without pooler for answers on every token, and under --prompt
    the embeddings once more beside the model.
    """
    folder = case.folder / "adapter"
    trained = folder / "trained_params.safetensors"
    if not trained.is_file() or (folder / "pytorch_model.bin").is_file():
        return folder
    frozen = load_file(backbone_folder(case.backbone) / "model.safetensors")
    has_pooler = case.meta["task"] in ("seq_cls", "multiple_choice")
    state = {f"bert.{name}": one for name, one in frozen.items() if has_pooler or not name.startswith("pooler.")}
    if case.meta["kind"] == "pt_shallow":
        state |= {name: one for name, one in frozen.items() if name.startswith("embeddings.")}
    shutil.copytree(folder, scratch, ignore=shutil.ignore_patterns("trained_params.*"))
    torch.save(state | load_file(trained), scratch / "pytorch_model.bin")
    return scratch


def answers(asked: list[Asked], logits: list[NDArray[np.float32]]) -> Arrays:
    """Outputs by the keys of expected.npz."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for row, values in zip(asked, logits, strict=True):
        if row.adapter.manifest.task == "question-answering":
            found[f"{row.input_id}.start_logits"] = [values[:, 0]]
            found[f"{row.input_id}.end_logits"] = [values[:, 1]]
        else:
            found.setdefault(f"{row.input_id}.{row.suffix}", []).append(values)
    return {key: np.concatenate(parts) for key, parts in found.items()}


def largest_error(got: Arrays, expected: Arrays) -> float:
    assert got.keys() == expected.keys()
    assert all(got[key].shape == expected[key].shape for key in got)
    return max(float(np.abs(got[key] - expected[key]).max()) for key in got)


@pytest.mark.skipif(not CASES, reason=NO_CASES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_each_row_alone(case: Case, asked_of: AskedOf, load_backbone: LoadBackbone) -> None:
    backbone, asked = load_backbone(case.backbone), asked_of(case)
    logits = [backbone.logits([(row.adapter, row.fields)])[0] for row in asked]
    assert largest_error(answers(asked, logits), case.expected) <= ATOL


@pytest.mark.skipif(not CASES, reason=NO_CASES)
@pytest.mark.parametrize("name", sorted({case.backbone for case in CASES}))
def test_all_rows_of_a_backbone_in_mixed_packs(name: str, asked_of: AskedOf, load_backbone: LoadBackbone) -> None:
    here = [case for case in CASES if case.backbone == name]
    rows = [(index, row) for index, case in enumerate(here) for row in asked_of(case)]
    order = random.Random(3).sample(range(len(rows)), len(rows))
    computed = load_backbone(name).logits([(rows[place][1].adapter, rows[place][1].fields) for place in order])
    logits = dict(zip(order, computed, strict=True))
    for index, case in enumerate(here):
        places = [place for place, (owner, _) in enumerate(rows) if owner == index]
        got = answers([rows[place][1] for place in places], [logits[place] for place in places])
        assert largest_error(got, case.expected) <= ATOL, case.folder.name


@pytest.mark.skipif(not CASES, reason=NO_CASES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_labels_keep_their_order(case: Case, asked_of: AskedOf) -> None:
    """From config.json where the tool writes them there; the order of the outputs follows."""
    (labels,) = {tuple(row.adapter.manifest.labels) for row in asked_of(case)}
    assert list(labels) == (case.meta.get("labels") or [])
