"""A run that begins with a bundle: it scores as the bundle does before the first step, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixrack.errors import BackboneMismatch, InvalidRequest, MalformedBundle
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import TENSORS_FILE, read_tensors, write_bundle
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.data import read_examples
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.model import PromptModel
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.start import arrays_to_start_from
from synthetic import MakeSettings, settings_of, tags
from tiny import make_manifest, random_arrays, write_backbone
from training_parts import model_of


@pytest.fixture
def bundle(make_settings: MakeSettings, tmp_path: Path) -> Path:
    settings = make_settings(output=tmp_path / "first", epochs=3)
    run_training(settings)
    return settings.output


def started(settings: TrainSettings, backbone: Backbone) -> PromptModel:
    """A model as it is before the first step of a run."""
    model, _ = model_of(backbone, [settings])
    draft = draft_manifest(settings, backbone.spec, read_data(settings))
    model.start_from(arrays_to_start_from(settings, draft, backbone.spec))
    return model


def test_before_the_first_step_a_run_scores_as_its_bundle(
    make_settings: MakeSettings, backbone: Backbone, bundle: Path
) -> None:
    settings = make_settings(init_from=bundle)
    model = started(settings, backbone)
    examples = read_examples(settings.dev_file, settings.task, {})
    own = evaluate(backbone, Adapter.load(bundle), examples)
    assert own.value > 0.8
    assert evaluate(backbone, model.adapter(), examples).scores == pytest.approx(own.scores, abs=1e-9)
    for name, tensor in read_tensors(bundle / TENSORS_FILE).items():
        np.testing.assert_array_equal(model.arrays()[name], tensor.values)


def test_a_run_goes_on_from_the_bundle(make_settings: MakeSettings, bundle: Path, tmp_path: Path) -> None:
    small = {"learning_rate": 1e-9, "prefix_dtype": "float32"}
    settings = make_settings(init_from=bundle, output=tmp_path / "second", **small)
    report = run_training(settings)
    first, second = (read_tensors(one / TENSORS_FILE) for one in (bundle, settings.output))
    for name, tensor in first.items():
        np.testing.assert_allclose(second[name].values, tensor.values, atol=1e-6)
    assert report.history[0] > 0.8


def test_a_head_of_another_task_stays_fresh(make_settings: MakeSettings, backbone: Backbone, bundle: Path) -> None:
    settings = make_settings("token-classification", tags, init_from=bundle)
    draft = draft_manifest(settings, backbone.spec, read_data(settings))
    assert set(arrays_to_start_from(settings, draft, backbone.spec)) == {"prefix"}


def test_a_head_of_other_labels_stays_fresh(make_settings: MakeSettings, backbone: Backbone, bundle: Path) -> None:
    settings = make_settings(init_from=bundle, labels=("dog", "cat"))
    draft = draft_manifest(settings, backbone.spec, read_data(settings))
    assert set(arrays_to_start_from(settings, draft, backbone.spec)) == {"prefix"}


def bundle_with(folder: Path, spec: BackboneSpec, update: Mapping[str, Any]) -> Path:
    manifest = make_manifest(spec, labels=("cat", "dog"))
    prefix = manifest.prefix.model_copy(update=dict(update))
    changed: Manifest = manifest.model_copy(update={"prefix": prefix})
    write_bundle(folder, changed, random_arrays(changed, spec.hidden_size))
    return folder


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        ({"prefix_len": 6}, "has prefix_len 6, this run's has prefix_len 4"),
        ({"layers": [0]}, r"has layers \[0\], this run's has layers None"),
        ({"positions": "unmoved"}, "has positions 'unmoved', this run's has positions 'after_prefix'"),
        ({"gates": "shared"}, "has gates 'shared', this run's has gates None"),
    ],
    ids=["length", "layers", "positions", "gates"],
)
def test_a_prefix_of_another_kind_is_refused(
    make_settings: MakeSettings, spec: BackboneSpec, tmp_path: Path, update: dict[str, Any], problem: str
) -> None:
    settings = make_settings(init_from=bundle_with(tmp_path / "other", spec, update))
    with pytest.raises(InvalidRequest, match=problem):
        run_training(settings)
    assert not settings.output.with_name("bundle.training").exists()


def test_a_soft_prompt_is_refused(make_settings: MakeSettings, spec: BackboneSpec, tmp_path: Path) -> None:
    manifest = make_manifest(spec, prompt="once")
    write_bundle(tmp_path / "soft", manifest, random_arrays(manifest, spec.hidden_size))
    with pytest.raises(InvalidRequest, match=r"has .*kind 'soft'.*, this run's has .*kind 'deep'"):
        run_training(make_settings(init_from=tmp_path / "soft"))


@pytest.mark.parametrize(
    "options", [{"method": "prompt-tuning"}, {"method": "head-only"}, {"reparameterization": "mlp"}, {"prefix_len": 0}]
)
def test_a_run_without_a_prefix_of_its_own_cannot_begin_with_one(
    make_settings: MakeSettings, bundle: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="--init-from gives a run the vectors of a deep prefix"):
        run_training(make_settings(init_from=bundle, **options))


def test_a_bundle_of_another_backbone_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = write_backbone(tmp_path / "other", seed=1)
    with pytest.raises(BackboneMismatch):
        run_training(settings_of(tmp_path / "run", other, init_from=bundle))


def test_a_folder_that_is_no_bundle_is_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MalformedBundle, match=r"empty has no adapter\.json"):
        run_training(make_settings(init_from=tmp_path / "empty"))
