"""Runs trained together: each is the run that it would be alone, whatever the others are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, get_linear_schedule_with_warmup

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import TENSORS_FILE, read_tensors
from prefixrack_adapters.padded_attention import PaddedAttention
from prefixrack_adapters.training import together
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.run import run_training
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.together import check_together, run_together, scheduled
from prefixrack_adapters.training.trainer import training_backbone
from synthetic import FILLERS, Record, alike, answer, choice, number, settings_of, several, single, tags


def worded_number(random: Random) -> dict[str, Any]:
    """No text comes twice: equal ones would tie, and their ranks be anything as soon as the last bits differ."""
    record = number(random)
    return record | {"text": f"{record['text']} {' '.join(random.choice(FILLERS) for _ in range(6))}"}


MLP = {"reparameterization": "mlp", "reparameterization_size": 16}
MIXED: dict[str, tuple[str, Record, dict[str, Any]]] = {
    "plain": ("text-classification", single, {}),
    "other-seed": ("text-classification", single, {"seed": 14, "learning_rate": 3e-3, "head_learning_rate": 1e-2}),
    "small-batches": ("text-classification", several, {"batch_size": 5, "weight_decay": 0.1}),
    "numbers": ("text-classification", worded_number, {"prefix_len": 7, "warmup": 0.3}),
    "words": ("token-classification", tags, MLP),
    "words-again": (
        "token-classification",
        tags,
        {"reparameterization": "mlp", "reparameterization_size": 16, "seed": 1},
    ),
    "questions": ("question-answering", answer, {"epochs": 3, "prefix_layers": (1,)}),
    "choices": ("multiple-choice", choice, {"gradient_accumulation": 3}),
    "prompt": ("text-classification", single, {"method": "prompt-tuning", "prefix_len": 3}),
    "head": ("token-classification", tags, {"method": "head-only", "batch_tokens": 60}),
    "vectors": ("text-embedding", alike, {}),
}


def runs_of(folder: Path, backbone: Path, names: Sequence[str], **options: Any) -> list[TrainSettings]:
    runs = []
    for name in names:
        task, record, own = MIXED[name]
        fields = {"epochs": 2, "backbone_dropout": False, "prefix_dtype": "float32"} | options | own
        runs.append(
            settings_of(folder / name, backbone, task, record, name=name, output=folder / "out" / name, **fields)
        )
    return runs


def alone(settings: TrainSettings) -> tuple[TrainSettings, Report]:
    elsewhere = settings.model_copy(update={"output": settings.output.with_name(f"{settings.name}-alone")})
    return elsewhere, run_training(elsewhere)


def check_same(settings: TrainSettings, report: Any) -> None:
    """What a run gave together with others, and what it gives alone."""
    elsewhere, wanted = alone(settings)
    assert isinstance(report, Report)
    # Where predictions are nearly equal the last bit decides which of two ranks higher.
    tolerance = 5e-3 if report.main == "spearman" else 1e-4
    assert report.history == pytest.approx(wanted.history, abs=tolerance)
    assert report.scores == pytest.approx(wanted.scores, abs=tolerance)
    assert report.exact_scores == pytest.approx(wanted.exact_scores, abs=tolerance)
    assert report.without_prefix == pytest.approx(wanted.without_prefix, abs=tolerance)
    first, second = ([entry for entry in one.log if "loss" in entry] for one in (report, wanted))
    assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-3)
    assert [entry["step"] for entry in first] == [entry["step"] for entry in second]
    facts = ("main", "best_epoch", "num_trained", "num_backbone", "num_train", "num_dev", "num_skipped", "majority")
    assert [getattr(report, name) for name in facts] == [getattr(wanted, name) for name in facts]
    if not settings.is_baseline:
        check_same_tensors(settings, elsewhere)


def check_same_tensors(settings: TrainSettings, others: TrainSettings) -> None:
    seen, wanted = (read_tensors(one.output / TENSORS_FILE) for one in (settings, others))
    assert seen.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if settings.task in ("multiple-choice", "question-answering") and name == "head.0.bias":
            continue  # it adds to all choices, or tokens, alike: its gradient is rounding, which AdamW makes a step of
        np.testing.assert_allclose(seen[name].values, tensor.values, atol=2e-4, rtol=1e-3, err_msg=name)


def test_each_run_is_the_run_that_it_is_alone(backbone_folder: Path, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, backbone_folder, list(MIXED))
    for settings, report in zip(runs, run_together(runs), strict=True):
        check_same(settings, report)


def test_attention_of_a_gpu_trains_the_same(
    backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There all rows are padded into one call, whose prefixes of many runs lie in one tensor."""

    def with_padding(settings: TrainSettings) -> Backbone:
        backbone = training_backbone(settings)
        backbone.attention = PaddedAttention()
        return backbone

    names = ("plain", "numbers", "words", "prompt", "head")
    runs, padded = (runs_of(tmp_path / place, backbone_folder, names, epochs=1) for place in ("rows", "padded"))
    reports = run_together(runs)
    monkeypatch.setattr(together, "training_backbone", with_padding)
    for one, other in zip(reports, run_together(padded), strict=True):
        assert isinstance(one, Report)
        assert isinstance(other, Report)
        assert other.history == pytest.approx(one.history, abs=1e-2 if one.main == "spearman" else 1e-4)
    for first, second in zip(runs, padded, strict=True):
        if not first.is_baseline:
            check_same_tensors(second, first)


def test_a_step_in_several_packs_is_the_same_step(backbone_folder: Path, tmp_path: Path) -> None:
    names = ("words", "prompt", "choices", "vectors")
    whole, cut = (
        runs_of(tmp_path / str(tokens), backbone_folder, names, pack_tokens=tokens, epochs=1) for tokens in (16384, 100)
    )
    for one, other in zip(run_together(whole), run_together(cut), strict=True):
        assert isinstance(one, Report)
        assert isinstance(other, Report)
        assert other.history == pytest.approx(one.history, abs=1e-2 if one.main == "spearman" else 1e-4)
    for first, second in zip(whole, cut, strict=True):
        check_same_tensors(second, first)


def test_a_run_that_stops_early_leaves_the_others_as_they_are(backbone_folder: Path, tmp_path: Path) -> None:
    (still,) = runs_of(tmp_path / "a", backbone_folder, ["words"], epochs=3)
    (stopping,) = runs_of(tmp_path / "b", backbone_folder, ["plain"], epochs=12, patience=1)
    stopped, trained = run_together([stopping, still])
    assert isinstance(stopped, Report)
    assert len(stopped.history) == stopped.best_epoch + 1 < 12
    check_same(stopping, stopped)
    check_same(still, trained)


def test_a_run_that_diverges_has_its_fault_and_the_others_their_reports(backbone_folder: Path, tmp_path: Path) -> None:
    (lost,) = runs_of(tmp_path / "a", backbone_folder, ["plain"], learning_rate=1e38)
    (fine,) = runs_of(tmp_path / "b", backbone_folder, ["words"])
    fault, report = run_together([lost, fine])
    assert isinstance(fault, InvalidRequest)
    assert "diverged" in fault.detail
    check_same(fine, report)
    assert not lost.output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fine-tuning"}, "method 'fine-tuning' of plain cannot be trained together"),
        ({"method": "multitask"}, "which leave the backbone as it is; train it alone"),
        ({"dtype": "bfloat16"}, "dtype is bfloat16 and float32: runs that are trained together share it"),
        ({"backbone_dropout": True}, "backbone_dropout is False and True"),
        ({"trackers": ("tensorboard",)}, "plain has trackers"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(
    backbone_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    first, second = runs_of(tmp_path, backbone_folder, ["plain", "words"])
    with pytest.raises(InvalidRequest, match=message):
        check_together([first.model_copy(update=changes), second])


def test_runs_need_outputs_of_their_own(backbone_folder: Path, tmp_path: Path) -> None:
    first, second = runs_of(tmp_path, backbone_folder, ["plain", "words"])
    with pytest.raises(InvalidRequest, match="is the output of 2 runs: give each its own"):
        check_together([first, second.model_copy(update={"output": first.output})])
    first.output.parent.mkdir(parents=True)
    first.output.touch()
    with pytest.raises(InvalidRequest, match="is a file: give a folder as output"):
        check_together([first, second])
    with pytest.raises(InvalidRequest, match="there is no run to train"):
        check_together([])


@pytest.mark.parametrize(("num_steps", "warmup"), [(40, 0.06), (7, 0.5), (1, 0.06), (10, 0.0)])
def test_rates_rise_and_fall_as_transformers_has_them(num_steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    arguments = TrainingArguments(warmup_steps=warmup)
    schedule = get_linear_schedule_with_warmup(optimizer, arguments.get_warmup_steps(num_steps), num_steps)
    for step in range(num_steps):
        assert scheduled(step, num_steps, warmup) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
