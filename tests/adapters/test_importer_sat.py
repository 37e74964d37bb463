"""SwissArmyTransformer's checkpoints: folders as the tool saves them, and what cannot be imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prefixrack.errors import BackboneMismatch, InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.importers.sat import read
from sat_checkpoint import PREFIX_LEN, WIDTH, SatCheckpoint, State, trained


@pytest.fixture
def checkpoint(tmp_path: Path) -> SatCheckpoint:
    return SatCheckpoint(tmp_path / "glm", tmp_path / "run")


def test_a_whole_checkpoint_is_compared_and_imported(checkpoint: SatCheckpoint, tmp_path: Path) -> None:
    state = trained()
    imported = read(checkpoint.write(checkpoint.frozen() | state).source())
    assert imported.manifest.decoding.problem == "regression"
    assert imported.manifest.prefix.positions == "unmoved"
    assert imported.read["frozen tensors compared"] == str(len(checkpoint.frozen()))
    assert np.array_equal(imported.arrays["prefix"][1, 0, 2, 3], state["mixins.ptuning.prefix.1"][0, 3, 2].numpy())
    write_bundle(tmp_path / "bundle", imported.manifest, dict(imported.arrays), card=None)
    backbone = Backbone.load(checkpoint.backbone, device="cpu")
    adapter = Adapter.load(tmp_path / "bundle")
    (seen,) = backbone.logits([(adapter, {"input_ids": [2, 9, 3]})])
    (hidden,) = backbone.logits([(Adapter.load(headless(checkpoint, tmp_path)), {"input_ids": [2, 9, 3]})])
    inner = np.maximum(imported.arrays["head.0.weight"] @ hidden + imported.arrays["head.0.bias"], 0)
    wanted = imported.arrays["head.1.weight"] @ inner + imported.arrays["head.1.bias"]
    assert np.abs(seen - wanted).max() < 1e-4


def headless(checkpoint: SatCheckpoint, tmp_path: Path) -> Path:
    """The same prefix alone, from the file of trained tensors."""
    checkpoint.folder = tmp_path / "headless"
    checkpoint.folder.mkdir()
    save_file(trained(None), checkpoint.folder / "trained_params.safetensors")
    imported = read(checkpoint.source())
    assert imported.manifest.task == "text-embedding"
    assert any("could not be compared" in note for note in imported.assumed)
    write_bundle(tmp_path / "plain", imported.manifest, dict(imported.arrays), card=None)
    return tmp_path / "plain"


def test_the_names_of_its_mixins_are_the_trainers_choice(checkpoint: SatCheckpoint) -> None:
    own = {
        name.replace("ptuning", "prefix-tuning").replace("classification_head", "head"): values
        for name, values in trained().items()
    }
    imported = read(checkpoint.write(checkpoint.frozen() | own).source())
    assert np.array_equal(imported.arrays["prefix"][0, 1, 3, 2], own["mixins.prefix-tuning.prefix.0"][1, 2, 3].numpy())
    assert np.array_equal(imported.arrays["head.1.weight"], own["mixins.head.layers.1.weight"].numpy())


def test_two_prefixes_are_refused(checkpoint: SatCheckpoint) -> None:
    state = trained()
    state["mixins.other.prefix.0"] = state["mixins.ptuning.prefix.0"]
    with pytest.raises(MalformedBundle, match=r"more than one prefix: mixins\.other\., mixins\.ptuning\."):
        read(checkpoint.write(state).source())


def test_a_mixin_that_cannot_be_run_is_refused(checkpoint: SatCheckpoint) -> None:
    state = trained() | {"mixins.lora.matrix_A.0": torch.ones(4, WIDTH)}
    with pytest.raises(BackboneMismatch, match=r"mixins\.lora\.matrix_A"):
        read(checkpoint.write(state).source())


def test_several_outputs_need_names(checkpoint: SatCheckpoint) -> None:
    checkpoint.write(trained(3))
    with pytest.raises(InvalidRequest, match="--labels"):
        read(checkpoint.source())
    assert read(checkpoint.source(labels=["a", "b", "c"])).manifest.labels == ["a", "b", "c"]


def spoiled_prefix(state: State) -> State:
    return state | {
        "mixins.ptuning.prefix.0": torch.zeros(2, 2, PREFIX_LEN, 16),
        "mixins.ptuning.prefix.1": torch.zeros(2, 2, PREFIX_LEN, 16),
    }


def without_layer(state: State) -> State:
    return {name: values for name, values in state.items() if not name.endswith("prefix.1")}


@pytest.mark.parametrize(("spoil", "message"), [(spoiled_prefix, "has shape"), (without_layer, "layers")])
def test_prefixes_of_another_shape_are_refused(
    checkpoint: SatCheckpoint, spoil: Callable[[State], State], message: str
) -> None:
    with pytest.raises(TensorMismatch, match=message):
        read(checkpoint.write(spoil(trained())).source())


def test_another_backbone_is_refused(checkpoint: SatCheckpoint) -> None:
    frozen = checkpoint.frozen()
    frozen["transformer.layers.0.mlp.dense_h_to_4h.weight"][3, 4] += 0.5
    with pytest.raises(BackboneMismatch, match="dense_h_to_4h"):
        read(checkpoint.write(frozen | trained()).source())


def test_parts_of_several_ranks_are_refused(checkpoint: SatCheckpoint) -> None:
    with pytest.raises(MalformedBundle, match="2 model-parallel ranks"):
        read(checkpoint.write(trained(), ranks=2).source())


def test_an_empty_folder_is_refused(checkpoint: SatCheckpoint) -> None:
    checkpoint.folder.mkdir()
    with pytest.raises(MalformedBundle, match="holds neither 'latest'"):
        read(checkpoint.source())


@pytest.mark.parametrize("options", [{"task": "token-classification"}, {"labels": ["x"]}])
def test_options_that_do_not_fit_are_refused(checkpoint: SatCheckpoint, options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=r"--(task|labels)"):
        read(checkpoint.write(trained()).source(**options))
