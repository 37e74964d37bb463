"""`prefixrack train` from files to a bundle with metrics and a card: the one place where a run is put together."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import TrainerCallback

from prefixrack_adapters import metrics
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.claims import claims_of
from prefixrack_adapters.confusion import draw_confusion
from prefixrack_adapters.evaluation import Evaluation
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import build_task
from prefixrack_adapters.training.card import Report, dataset_name, render_card
from prefixrack_adapters.training.curves import draw_curves
from prefixrack_adapters.training.drafts import TrainingData, draft_manifest, first_examples, read_data, short_example
from prefixrack_adapters.training.memory import evaluate, told_if_out_of_memory
from prefixrack_adapters.training.model import Arrays
from prefixrack_adapters.training.outputs import CONFUSION_FILE, CURVES_FILE, METRICS_FILE, PICTURES
from prefixrack_adapters.training.progress import Watch, watched
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import Workspace, fingerprint_of, staged
from prefixrack_adapters.training.start import arrays_to_start_from
from prefixrack_adapters.training.thresholds import adapter_of, cast, tuned_decoding
from prefixrack_adapters.training.trackers import check_trackers, of_trainer
from prefixrack_adapters.training.trainer import DataSet, TrainingResult, train_prompt, training_backbone


def run_training(settings: TrainSettings, on_leftovers: str | None = None, watch: Watch | None = None) -> Report:
    """Train, score the adapter as it will serve (float32), and write the bundle to `settings.output`.

    What an earlier run wrote there is replaced at the end. Baselines write no bundle, only their `metrics.json`.
    `on_leftovers` says what becomes of an unfinished run: "resume", "restart", or None to refuse. `watch` is there
    where the run is one of several.
    """
    check_trackers(settings.trackers)
    started = time.monotonic()
    data = read_data(settings)
    workspace = Workspace(settings.output, asked_for([settings]))
    with (
        told_if_out_of_memory(),
        workspace.opened(on_leftovers) as folder,
        watched(watch, settings.output) as looking_on,
    ):
        result, manifest = _train(settings, data, folder, looking_on)
        return finish_part(settings, data, manifest, result, 0, started)


def asked_for(settings: Sequence[TrainSettings]) -> dict[str, object]:
    """What a run that is resumed must have in common with the one that was broken off: settings, and bytes of files."""
    asked: dict[str, object] = {"weights of backbone": BackboneSpec.load(settings[0].backbone).fingerprint}
    if len(settings) > 1:
        asked["order of data sets"] = [one.name for one in settings]
    for one in settings:
        options = one.model_dump(mode="json", exclude={"command", "output", "trackers"})
        files = {name: options[name] for name in ("train_file", "dev_file", "init_from") if options[name] is not None}
        options |= {f"bytes of {name}": fingerprint_of(source) for name, source in files.items()}
        asked |= {f"{one.name}.{name}" if len(settings) > 1 else name: value for name, value in options.items()}
    return asked


def _train(settings: TrainSettings, data: TrainingData, folder: Path, watch: Watch) -> tuple[TrainingResult, Manifest]:
    backbone = training_backbone(settings)
    manifest = draft_manifest(settings, backbone.spec, data)
    metric = main_metric_of(manifest, data)
    sets = [DataSet(manifest, data.train, data.dev)]
    start = start_of(settings, manifest, backbone)
    result = train_watched(settings, backbone, sets, folder, watch.callbacks(settings, metric), start)
    backbone.model.eval()
    return result, manifest


def main_metric_of(manifest: Manifest, data: TrainingData) -> str:
    """What its epochs are chosen by."""
    no_answer, target = manifest.decoding.no_answer, data.dev[0].target
    return metrics.main_metric(manifest.task, data.problem, no_answer, manifest.input_format, target)


def train_watched(
    settings: TrainSettings,
    backbone: Backbone,
    sets: Sequence[DataSet],
    folder: Path,
    callbacks: Sequence[TrainerCallback],
    start: Arrays | None,
) -> TrainingResult:
    """Train with the callbacks of a watch. The Trainer sets up those trackers only that are not among them."""
    left = settings.model_copy(update={"trackers": of_trainer(settings.trackers)})
    return train_prompt(left, backbone, sets, folder, callbacks, start)


def start_of(settings: TrainSettings, draft: Manifest, backbone: Backbone) -> Arrays | None:
    """The tensors of the bundle that the run begins with."""
    return None if settings.init_from is None else arrays_to_start_from(settings, draft, backbone.spec)


def finish_part(
    settings: TrainSettings,
    data: TrainingData,
    manifest: Manifest,
    result: TrainingResult,
    part: int,
    started: float,
    joined: Sequence[str] = (),
    serving: Backbone | None = None,
) -> Report:
    """Score one part of a finished run and write its folder: the bundle (not for baselines), metrics, pictures, card.

    `joined` are the data sets that it was trained together with, `serving` the backbone as it serves, if it is loaded.
    """
    arrays: Arrays = result.model.arrays(part)
    backbone = result.model.backbone
    if not settings.is_baseline:
        backbone = serving or Backbone.load(settings.backbone, settings.device)
    manifest = tuned_decoding(manifest, arrays, backbone, data)
    exact = evaluate(backbone, adapter_of(manifest, arrays, backbone), data.dev)
    if settings.is_baseline:
        report = _report(settings, data, manifest, result, part, exact, started)
        with staged(settings.output) as folder:
            _write_measured(folder, settings.name, report, exact)
        return report
    manifest, arrays = cast(manifest, arrays, settings.prefix_dtype)
    adapter = adapter_of(manifest, arrays, backbone)
    scores = evaluate(backbone, adapter, data.dev)
    report = _report(settings, data, manifest, result, part, scores, started)
    report.joined.extend(joined)
    report.exact_scores.update(exact.scores)
    report.without_prefix.update(evaluate(backbone, adapter.without_prefix(), data.dev).scores)
    task = build_task(manifest, backbone.spec, backbone.tokenizer)
    claims = claims_of(report.scores, dataset_name(settings), "dev", report.num_dev)
    examples = first_examples(task, data.dev, settings.num_examples)
    shown = {"metrics": claims, "example": short_example(task, data.dev), "examples": examples}
    manifest = manifest.model_copy(update=shown)
    with staged(settings.output) as folder:
        pictures = _write_measured(folder, settings.name, report, scores)
        write_bundle(folder, manifest, dict(arrays), render_card(settings, manifest, report, pictures))
    return report


def _write_measured(folder: Path, name: str, report: Report, scores: Evaluation) -> list[str]:
    """The whole report and its pictures, for tables and comparisons; they are no part of the bundle.

    Returns the names of the pictures.
    """
    (folder / METRICS_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")
    draw_curves(report.log, report.best_epoch, folder / CURVES_FILE, name, report.main)
    if scores.confusion is None:
        return [CURVES_FILE]
    draw_confusion(scores.confusion, folder / CONFUSION_FILE, f"{name} on dev")
    return list(PICTURES)


def _report(
    settings: TrainSettings,
    data: TrainingData,
    manifest: Manifest,
    result: TrainingResult,
    part: int,
    scores: Evaluation,
    started: float,
) -> Report:
    train_targets = [one.target for one in data.train]
    dev_targets = [one.target for one in data.dev]
    return Report(
        main=scores.main,
        scores=dict(scores.scores),
        majority=metrics.majority(
            settings.task, data.problem, train_targets, dev_targets, manifest.labels, settings.input_format
        ),
        history=result.history,
        best_epoch=result.best_epoch,
        num_trained=result.num_trained,
        num_backbone=sum(part.numel() for part in result.model.backbone.model.parameters()),
        num_train=len(data.train),
        num_dev=len(data.dev),
        num_skipped=result.model.parts[part].objective.num_skipped,
        seconds=time.monotonic() - started,
        log=result.log,
        stopped_early=result.stopped_early,
    )
