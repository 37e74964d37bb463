"""Whole training runs on a tiny backbone: what is learnt, what is written and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefixrack.errors import InvalidRequest, LabelMismatch
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, TENSORS_FILE, bundle_digest, check_bundle, read_tensors
from prefixrack_adapters.evaluation import evaluate
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.data import read_examples
from prefixrack_adapters.training.drafts import draft_manifest, read_data
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.trainer import DataSet, train_prompt, training_backbone
from synthetic import MakeSettings, Record, answer, choice, number, several, single, tags


@pytest.mark.parametrize(
    ("task", "record", "at_least"),
    [
        ("text-classification", single, 0.9),
        ("text-classification", several, 0.9),
        ("text-classification", number, 0.8),
        ("token-classification", tags, 0.3),
        ("question-answering", answer, 0.6),
        ("multiple-choice", choice, 0.9),
    ],
)
def test_a_run_learns_and_its_bundle_scores_what_it_reports(
    make_settings: MakeSettings,
    backbone: Backbone,
    capsys: pytest.CaptureFixture[str],
    task: str,
    record: Record,
    at_least: float,
) -> None:
    settings = make_settings(task, record, epochs=4, backbone_dropout=False)
    report = run_training(settings)
    score = report.scores[report.main]
    assert score >= at_least
    assert score > report.majority[report.main] + 0.2
    assert report.scores.keys() == report.without_prefix.keys() == report.exact_scores.keys()
    assert len(report.history) == 4

    manifest_bytes, tensors = (settings.output / MANIFEST_FILE).read_bytes(), settings.output / TENSORS_FILE
    manifest = check_bundle(manifest_bytes, tensors, backbone.spec, "float32")
    examples = read_examples(settings.dev_file, task, {})
    again = evaluate(backbone, Adapter.load(settings.output), examples)
    assert again.scores == pytest.approx(report.scores, abs=1e-6)
    assert (again.num_failed, again.num_examples) == (0, 40)
    assert {metric.name: metric.value for metric in manifest.metrics} == pytest.approx(report.scores, abs=1e-4)
    assert manifest.example in [example.input for example in examples]
    card = (settings.output / CARD_FILE).read_text()
    assert card.startswith("---\nlicense: ")
    assert f"| {report.main} | {score:.4f} |" in card
    assert capsys.readouterr().out == "", "standard output belongs to the command"


def test_the_backbone_stays_bit_for_bit_and_checkpoints_hold_no_tensor_of_it(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings()
    data, backbone = read_data(settings), training_backbone(settings)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    seen: list[set[str]] = []

    class Checkpoints(TrainerCallback):
        def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
            assert args.output_dir is not None
            seen.extend(set(load_file(path)) for path in Path(args.output_dir).glob("checkpoint-*/*.safetensors"))

    manifest = draft_manifest(settings, backbone.spec, data)
    sets = [DataSet(manifest, data.train, data.dev)]
    result = train_prompt(settings, backbone, sets, tmp_path / "checkpoints", [Checkpoints()])
    after = backbone.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert seen == [{"encoder.embedding.weight", "heads.0.0.weight", "heads.0.0.bias"}]
    assert result.num_trained == 4 * 2 * 2 * 32 + 2 * 32 + 2


def test_the_same_seed_gives_the_same_bundle(make_settings: MakeSettings, tmp_path: Path) -> None:
    digests = []
    for folder, seed in (("a", 13), ("b", 13), ("c", 14)):
        settings = make_settings(output=tmp_path / folder, seed=seed)
        run_training(settings)
        digests.append(bundle_digest(settings.output))
    assert digests[0] == digests[1] != digests[2]


def test_the_reparameterization_is_folded_into_the_bundle(make_settings: MakeSettings, spec: BackboneSpec) -> None:
    settings = make_settings(reparameterization="mlp", reparameterization_size=16, prefix_dropout=0.1)
    report = run_training(settings)
    mlp_size = 4 * 32 + (32 * 16 + 16) + (16 * 128 + 128)
    assert report.num_trained == mlp_size + 2 * 32 + 2
    stored = read_tensors(settings.output / TENSORS_FILE)
    assert {name: tensor.values.shape for name, tensor in stored.items()} == {
        "prefix": (2, 2, 4, 4, 8),
        "head.0.weight": (2, 32),
        "head.0.bias": (2,),
    }
    manifest = Adapter.load(settings.output).manifest
    assert manifest.provenance.settings["reparameterization"] == "mlp"


def test_the_stored_dtype(make_settings: MakeSettings) -> None:
    for dtype, stored in (("float16", "F16"), ("float32", "F32")):
        settings = make_settings(prefix_dtype=dtype)
        run_training(settings)
        assert {one.dtype for one in read_tensors(settings.output / TENSORS_FILE).values()} == {stored}


def test_a_pooler_head_takes_the_backbones_own_and_leaves_it(
    make_settings: MakeSettings, backbone_folder: Path
) -> None:
    settings = make_settings(head="pooler", prefix_dtype="float32")
    report = run_training(settings)
    stored = read_tensors(settings.output / TENSORS_FILE)
    pretrained = load_file(backbone_folder / "model.safetensors")["pooler.dense.weight"]
    assert torch.equal(torch.tensor(stored["head.0.weight"].values), pretrained)
    assert report.num_trained == 4 * 2 * 2 * 32 + 2 * 32 + 2


def test_a_head_alone_can_be_trained(make_settings: MakeSettings) -> None:
    settings = make_settings(prefix_len=0)
    report = run_training(settings)
    assert report.num_trained == 2 * 32 + 2
    assert "prefix" not in read_tensors(settings.output / TENSORS_FILE)


def test_fine_tuning_is_scored_but_writes_no_bundle(make_settings: MakeSettings) -> None:
    settings = make_settings(method="fine-tuning", learning_rate=1e-3, epochs=2)
    report = run_training(settings)
    assert report.num_trained > report.num_backbone
    assert report.scores["accuracy"] > report.majority["accuracy"]
    for name in (MANIFEST_FILE, TENSORS_FILE, CARD_FILE):
        assert not (settings.output / name).exists()


def test_training_stops_when_dev_gets_no_better(make_settings: MakeSettings) -> None:
    report = run_training(make_settings(epochs=12, patience=1))
    assert len(report.history) == report.best_epoch + 1 < 12
    assert max(report.history) == report.history[report.best_epoch - 1]


def test_unanswerable_questions_teach_no_answer(make_settings: MakeSettings) -> None:
    def half(random: Random) -> dict[str, Any]:
        record = answer(random)
        if random.random() < 0.5:
            record |= {"context": record["context"].replace("paris", "rain").replace("london", "rain")}
            record["answers"] = {"text": [], "answer_start": []}
        return record

    settings = make_settings("question-answering", half)
    run_training(settings)
    assert Adapter.load(settings.output).manifest.decoding.no_answer


def test_max_len_is_held_to_what_the_backbone_has(make_settings: MakeSettings) -> None:
    settings = make_settings(max_len=5000)
    run_training(settings)
    assert Adapter.load(settings.output).manifest.tokenization.max_len == 188


def test_examples_that_cannot_be_trained_on_are_counted(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Path(settings.train_file).open("a") as file:
        file.write('{"text": " ", "label": "cat"}\n')
    assert run_training(settings).num_skipped == 1


def test_a_dev_label_without_training_data_is_refused(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with Path(settings.dev_file).open("a") as file:
        file.write('{"text": "rain", "label": "weather"}\n')
    with pytest.raises(InvalidRequest, match=r"labels that .* lacks: \['weather'\]"):
        run_training(settings)


@pytest.mark.parametrize(
    ("task", "record", "mentions"),
    [
        ("text-classification", {"text": "a cat", "label": "cat"}, "the only label of .*train.jsonl is 'cat': two at"),
        (
            "token-classification",
            {"tokens": ["cat"], "tags": ["O"]},
            "every tag of .*train.jsonl is 'O': spans to find",
        ),
    ],
)
def test_nothing_to_tell_apart_is_refused(
    make_settings: MakeSettings, task: str, record: dict[str, Any], mentions: str
) -> None:
    settings = make_settings(task, lambda _: record)
    with pytest.raises(InvalidRequest, match=mentions):
        run_training(settings)
    assert not settings.output.exists()


def test_labels_that_are_no_tags_are_refused_before_the_run(make_settings: MakeSettings) -> None:
    def names(random: Random) -> dict[str, Any]:
        return {"tokens": ["ada", "sat"], "tags": ["person", "O"]}

    with pytest.raises(LabelMismatch, match="label 'person' is no tag of the scheme 'bio'"):
        read_data(make_settings("token-classification", names))


def test_a_bundle_names_no_path_of_the_machine(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    run_training(settings)
    assert str(tmp_path) not in (settings.output / MANIFEST_FILE).read_text()
