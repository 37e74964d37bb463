"""Every method, task and format from data to a bundle that serves: what is trained, and what the bundle answers."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefixrack.errors import InvalidRequest
from prefixrack.types import (
    ClassificationOutput,
    EntityOutput,
    JudgedAnswersOutput,
    Parameters,
    TokenClassificationOutput,
)
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, check_bundle, read_tensors
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.data import CandidateLabels, read_examples
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.run import run_training, start_of
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.thresholds import cast
from prefixrack_adapters.training.trainer import (
    DataSet,
    TrainingResult,
    train_prompt,
    training_arguments,
    training_backbone,
)
from synthetic import MakeSettings, Record, alike, gap, judged, pronoun, roles, settings_of, single
from tiny import make_manifest, random_arrays, write_backbone


class Checkpoints(TrainerCallback):
    """The names of the tensors that each checkpoint of a run holds."""

    def __init__(self) -> None:
        self.names: list[set[str]] = []

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.names.append({name for path in folder.glob("*.safetensors") for name in load_file(path)})


class Rates(TrainerCallback):
    """The learning rate of every trained tensor when training begins, before it warms up and falls."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        names = {id(values): name for name, values in kwargs["model"].named_parameters()}
        for group in kwargs["optimizer"].param_groups:
            self.of |= {names[id(values)]: group["initial_lr"] for values in group["params"]}


def trained(
    settings: TrainSettings, folder: Path, *callbacks: TrainerCallback
) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    """A run without a bundle, and the backbone's tensors as they were before it."""
    data, backbone = read_data(settings), training_backbone(settings)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    manifest = draft_manifest(settings, backbone.spec, data)
    sets = [DataSet(manifest, data.train, data.dev)]
    return train_prompt(settings, backbone, sets, folder, callbacks, start_of(settings, manifest, backbone)), before


@pytest.mark.parametrize(
    ("options", "names", "num_prefix"),
    [
        ({"method": "prompt-tuning"}, {"encoder.vectors"}, 4 * 32),
        ({"method": "head-only"}, set(), 0),
        ({"prefix_layers": (1,)}, {"encoder.embedding.weight"}, 4 * 2 * 32),
        (
            {"reparameterization": "mlp", "reparameterization_size": 16, "prefix_dropout": 0.1},
            {"encoder.embedding.weight", *(f"encoder.mlp.{i}.{part}" for i in (0, 2) for part in ("weight", "bias"))},
            4 * 32 + (32 * 16 + 16) + (16 * 128 + 128),
        ),
    ],
    ids=["prompt-tuning", "head-only", "some-layers", "mlp"],
)
def test_only_what_the_method_trains_changes_and_is_kept(
    make_settings: MakeSettings, tmp_path: Path, options: dict[str, Any], names: set[str], num_prefix: int
) -> None:
    seen = Checkpoints()
    result, before = trained(make_settings(epochs=2, **options), tmp_path / "checkpoints", seen)
    after = result.model.backbone.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert seen.names == [names | {"heads.0.0.weight", "heads.0.0.bias"}] * 2
    assert result.num_trained == num_prefix + 2 * 32 + 2


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"method": "prompt-tuning"}, {"prompt": (4, 32)}),
        ({"prefix_layers": (1,)}, {"prefix": (1, 2, 4, 4, 8)}),
        ({"reparameterization": "mlp", "prefix_dropout": 0.1, "learning_rate": 3e-3}, {"prefix": (2, 2, 4, 4, 8)}),
        ({"prefix_init": "words"}, {"prefix": (2, 2, 4, 4, 8)}),
        ({"head": "pooler", "pooling": "last_token"}, {"prefix": (2, 2, 4, 4, 8)}),
        ({"pooling": "mean_tokens"}, {"prefix": (2, 2, 4, 4, 8)}),
    ],
    ids=["prompt-tuning", "some-layers", "mlp", "words", "pooler", "mean"],
)
def test_the_bundle_is_the_adapter_that_was_trained(
    make_settings: MakeSettings,
    backbone: Backbone,
    tmp_path: Path,
    options: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    settings = make_settings(epochs=3, prefix_dtype="float32", **options)
    result, _ = trained(settings, tmp_path / "checkpoints")
    report = run_training(settings)
    assert report.history == pytest.approx(result.history)
    assert report.scores["accuracy"] > report.majority["accuracy"] + 0.2
    stored = read_tensors(settings.output / TENSORS_FILE)
    arrays = result.model.arrays()
    assert stored.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_allclose(stored[name].values, values, atol=1e-6)
    assert {name: stored[name].values.shape for name in shapes} == shapes
    manifest_bytes = (settings.output / MANIFEST_FILE).read_bytes()
    check_bundle(manifest_bytes, settings.output / TENSORS_FILE, backbone.spec, "float32")
    examples = read_examples(settings.dev_file, settings.task, {})
    served = evaluate(backbone, Adapter.load(settings.output), examples)
    in_training = evaluate(result.model.backbone, result.model.adapter(), examples)
    assert served.scores == pytest.approx(in_training.scores, abs=1e-6)
    assert served.scores == pytest.approx(report.scores, abs=1e-6)


def test_a_head_alone_is_scored_but_writes_no_bundle(make_settings: MakeSettings) -> None:
    settings = make_settings(method="head-only", epochs=4)
    report = run_training(settings)
    assert report.num_trained == 2 * 32 + 2
    assert report.scores["accuracy"] > report.majority["accuracy"]
    assert not (settings.output / MANIFEST_FILE).exists()
    assert (settings.output / "metrics.json").is_file()


def test_embeddings_have_no_head_to_train_alone(make_settings: MakeSettings) -> None:
    with pytest.raises(InvalidRequest, match="nothing to train for task 'text-embedding'"):
        run_training(make_settings("text-embedding", alike, method="head-only"))


@pytest.mark.parametrize("family", ["gpt2", "llama", "roberta"])
@pytest.mark.parametrize("method", ["p-tuning-v2", "prompt-tuning"])
def test_other_families_learn_and_serve_alike(tmp_path: Path, family: str, method: str) -> None:
    folder = write_backbone(tmp_path / family, family)
    settings = settings_of(tmp_path, folder, method=method, epochs=5, patience=5, max_len=500)
    report = run_training(settings)
    assert report.scores["accuracy"] > report.majority["accuracy"] + 0.2
    adapter, backbone = Adapter.load(settings.output), Backbone.load(folder, "cpu")
    assert adapter.manifest.head.gather == ("first_token" if family == "roberta" else "last_token")
    room = backbone.spec.max_positions - backbone.spec.base_position - 4
    assert adapter.manifest.tokenization.max_len == room
    examples = read_examples(settings.dev_file, settings.task, {})
    assert evaluate(backbone, adapter, examples).scores == pytest.approx(report.scores, abs=1e-6)
    longest = backbone.predict(adapter, "cat " * 400, Parameters(overlong="truncate"))
    assert isinstance(longest[0], ClassificationOutput), "the longest row has a position for every token"


FORMATS: list[tuple[str, str, Record]] = [
    ("wsc", "text-classification", pronoun),
    ("wsc.template1", "text-classification", pronoun),
    ("multirc", "text-classification", judged),
    ("record", "text-classification", gap),
    ("srl", "token-classification", roles),
]


@pytest.mark.parametrize(("name", "task", "record"), FORMATS, ids=[name for name, _, _ in FORMATS])
def test_formats_are_trained_scored_and_served_as_they_are_asked(
    make_settings: MakeSettings, backbone: Backbone, name: str, task: str, record: Record
) -> None:
    settings = make_settings(task, record, input_format=name, epochs=8, patience=8, backbone_dropout=False)
    report = run_training(settings)
    adapter = Adapter.load(settings.output)
    assert adapter.manifest.input_format == name
    examples = read_examples(settings.dev_file, task, {}, name)
    again = evaluate(backbone, adapter, examples)
    assert again.scores == pytest.approx(report.scores, abs=1e-6)
    assert again.num_failed == 0
    assert report.scores[report.main] > {"srl": 0.3, "record": 0.7}.get(name, 0.8)
    (output,) = backbone.predict(adapter, examples[0].input)
    match name:
        case "srl":
            assert isinstance(output, TokenClassificationOutput)
            assert len(output.tags or []) == len(examples[0].input["tokens"])
        case "multirc":
            assert isinstance(output, JudgedAnswersOutput)
            target = examples[0].target
            assert isinstance(target, CandidateLabels)
            assert [one.text for one in output.judged] == list(target.names) == examples[0].input["answers"]
        case "record":
            assert isinstance(output, EntityOutput)
            assert sorted(one.label for one in output.entities) == sorted(examples[0].input["entities"])
        case _:
            assert isinstance(output, ClassificationOutput)
            assert adapter.manifest.labels == ["False", "True"]


def test_the_example_is_one_that_the_adapter_takes(make_settings: MakeSettings, backbone: Backbone) -> None:
    settings = make_settings()
    dev = Path(settings.dev_file)
    dev.write_text('{"text": " ", "label": "cat"}\n' + dev.read_text())
    run_training(settings)
    manifest = Adapter.load(settings.output).manifest
    assert manifest.example.strip()

    def long(random: Random) -> dict[str, Any]:
        return single(random) | {"text": "cat " * 80}

    settings = make_settings("text-classification", long, output=settings.output.parent / "long")
    run_training(settings)
    manifest = Adapter.load(settings.output).manifest
    assert manifest.example is None, "all are too long to be sent as they are"
    (shown,) = build_task(manifest, backbone.spec, backbone.tokenizer).prepare_many(["cat"], Parameters())
    assert shown.num_tokens == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prefix_layers": (0, 2)}, r"layers is \[0, 2\]: rising numbers from 0 to 1"),
        ({"prefix_len": 190}, "a prefix of 190 leaves 2 of the backbone's 192 positions"),
        ({"input_format": "wsc", "labels": ("a", "b")}, "label .* is not known"),
    ],
)
def test_settings_that_fit_no_adapter_are_refused(
    make_settings: MakeSettings, options: dict[str, Any], problem: str
) -> None:
    record = pronoun if "input_format" in options else single
    settings = make_settings("text-classification", record, **options)
    with pytest.raises(InvalidRequest, match=problem):
        run_training(settings)
    assert [path.name for path in settings.output.parent.iterdir()] == ["data"]


def test_texts_that_are_all_empty_are_refused(make_settings: MakeSettings) -> None:
    def blank(random: Random) -> dict[str, Any]:
        return single(random) | {"text": " "}

    with pytest.raises(InvalidRequest, match="none of the 160 training examples of tiny can be trained on"):
        run_training(make_settings("text-classification", blank))


def test_a_training_that_diverges_writes_no_bundle(make_settings: MakeSettings) -> None:
    settings = make_settings(learning_rate=1e30)
    with pytest.raises(InvalidRequest, match=r"tensor .* of tiny holds values that are not finite in float16"):
        run_training(settings)
    assert not settings.output.exists()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 70000.0), ("float32", float("nan"))])
def test_values_that_cannot_be_stored_are_named(spec: BackboneSpec, dtype: str, value: float) -> None:
    manifest = make_manifest(spec)
    arrays = random_arrays(manifest, spec.hidden_size)
    arrays["prefix"][0, 0, 0, 0, 0] = value
    with pytest.raises(InvalidRequest, match=f"'prefix' of tiny holds values that are not finite in {dtype}"):
        cast(manifest, arrays, dtype)


@pytest.mark.parametrize(
    ("options", "of_prefix", "of_head"),
    [
        ({}, 1e-2, 1e-2),
        ({"learning_rate": 0.5}, 0.5, 0.5),
        ({"reparameterization": "mlp"}, 5e-4, 5e-4),
        ({"learning_rate": 0.5, "head_learning_rate": 0.25, "weight_decay": 0.1}, 0.5, 0.25),
    ],
)
def test_the_head_may_have_a_learning_rate_of_its_own(
    make_settings: MakeSettings, tmp_path: Path, options: dict[str, Any], of_prefix: float, of_head: float
) -> None:
    rates = Rates()
    settings = make_settings(epochs=1).model_copy(update={"learning_rate": None} | options)
    trained(settings, tmp_path / "run", rates)
    assert {name: rate for name, rate in rates.of.items() if not name.startswith("encoder.mlp.")} == {
        "encoder.embedding.weight": of_prefix,
        "heads.0.0.weight": of_head,
        "heads.0.0.bias": of_head,
    }
    assert {rate for name, rate in rates.of.items() if name.startswith("encoder.")} == {of_prefix}


@pytest.mark.parametrize("is_on", [False, True])
def test_the_dropout_of_the_backbone_is_on_in_training_only(
    make_settings: MakeSettings, tmp_path: Path, is_on: bool
) -> None:
    settings = make_settings(epochs=1, backbone_dropout=is_on)
    result, _ = trained(settings, tmp_path / "run")
    items = result.model.parts[0].objective.items(read_data(settings).train)[:4]
    torch.manual_seed(0)
    for is_training in (False, True):
        result.model.train(is_training)
        first, second = (result.model(items)["loss"].item() for _ in range(2))
        assert (first != second) == (is_on and is_training)


def test_of_several_gpus_a_run_takes_the_one_that_it_is_told(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would take the first, and copy the trained module, without the backbone, to all others."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = training_arguments(make_settings(), tmp_path, "cuda:1")
    assert (arguments.n_gpu, arguments.device) == (1, torch.device("cuda:1"))
    assert Accelerator().device == torch.device("cuda:1")
    arguments = training_arguments(make_settings(), tmp_path, "cpu")
    assert (arguments.n_gpu, arguments.device) == (0, torch.device("cpu"))
    assert Accelerator().device == torch.device("cpu")
