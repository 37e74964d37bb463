"""`prefixrack train` from files to a bundle with metrics and a card: the one place where a run is put together."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prefixrack_adapters import metrics
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.evaluation import Evaluation, evaluate
from prefixrack_adapters.manifest import Manifest, Metric
from prefixrack_adapters.training.card import Report, render_card
from prefixrack_adapters.training.drafts import TrainingData, draft_manifest, read_data
from prefixrack_adapters.training.model import Arrays
from prefixrack_adapters.training.progress import TrainingProgress
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import Workspace, fingerprint_of, staged, told_if_full
from prefixrack_adapters.training.thresholds import adapter_of, cast, tuned_decoding
from prefixrack_adapters.training.trainer import DataSet, TrainingResult, train_prompt, training_backbone

METRICS_FILE = "metrics.json"


def run_training(settings: TrainSettings, on_leftovers: str | None = None) -> Report:
    """Train, score the adapter as it will serve (float32), and write the bundle to `settings.output`.

    Baselines write no bundle, only their `metrics.json`. `on_leftovers` says what becomes of an unfinished run:
    "resume", "restart", or None to refuse.
    """
    started = time.monotonic()
    data = read_data(settings)
    workspace = Workspace(settings.output, asked_for([settings]))
    with told_if_full(settings.output):
        result, manifest = _train(settings, data, workspace.open(on_leftovers))
        report = finish_part(settings, data, manifest, result, 0, started)
    workspace.remove()
    return report


def asked_for(settings: Sequence[TrainSettings]) -> dict[str, object]:
    """What a run that is resumed must have in common with the one that was broken off: settings, and bytes of files."""
    asked: dict[str, object] = {}
    for one in settings:
        options = one.model_dump(mode="json", exclude={"command", "output", "trackers"})
        files = {f"bytes of {name}": fingerprint_of(options[name]) for name in ("train_file", "dev_file")}
        asked |= {
            f"{one.name}.{name}" if len(settings) > 1 else name: value for name, value in (options | files).items()
        }
    return asked


def _train(settings: TrainSettings, data: TrainingData, folder: Path) -> tuple[TrainingResult, Manifest]:
    backbone = training_backbone(settings)
    manifest = draft_manifest(settings, backbone.spec, data)
    bar = TrainingProgress(metrics.main_metric(settings.task, data.problem, manifest.decoding.no_answer))
    start = _start(settings, backbone)
    result = train_prompt(settings, backbone, [DataSet(manifest, data.train, data.dev)], folder, [bar], start)
    backbone.model.eval()
    return result, manifest


def _start(settings: TrainSettings, backbone: Backbone) -> Arrays | None:
    """The tensors of the bundle that the run begins with."""
    if settings.init_from is None:
        return None
    from prefixrack_adapters.training.start import arrays_to_start_from

    return arrays_to_start_from(settings, backbone.spec)


def finish_part(
    settings: TrainSettings, data: TrainingData, manifest: Manifest, result: TrainingResult, part: int, started: float
) -> Report:
    """Score one part of a finished run and write its folder: the bundle (not for baselines), metrics, card."""
    arrays: Arrays = result.model.arrays(part)
    backbone = result.model.backbone if settings.is_baseline else Backbone.load(settings.backbone, settings.device)
    manifest = tuned_decoding(manifest, arrays, backbone, data)
    exact = evaluate(backbone, adapter_of(manifest, arrays, backbone), data.dev)
    if settings.is_baseline:
        report = _report(settings, data, manifest, result, exact, started)
        with staged(settings.output) as folder:
            write_metrics(folder, report)
        return report
    manifest, arrays = cast(manifest, arrays, settings.prefix_dtype)
    adapter = adapter_of(manifest, arrays, backbone)
    report = _report(settings, data, manifest, result, evaluate(backbone, adapter, data.dev), started)
    report.exact_scores.update(exact.scores)
    report.without_prefix.update(evaluate(backbone, adapter.without_prefix(), data.dev).scores)
    manifest = manifest.model_copy(update={"metrics": _metrics(settings, report)})
    with staged(settings.output) as folder:
        write_bundle(folder, manifest, dict(arrays), render_card(settings, manifest, report))
        write_metrics(folder, report)
    return report


def write_metrics(folder: Path, report: Report) -> None:
    """The whole report beside the bundle, for tables and comparisons; it is not part of the bundle."""
    (folder / METRICS_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")


def _report(
    settings: TrainSettings,
    data: TrainingData,
    manifest: Manifest,
    result: TrainingResult,
    scores: Evaluation,
    started: float,
) -> Report:
    train_targets = [one.target for one in data.train]
    dev_targets = [one.target for one in data.dev]
    return Report(
        main=scores.main,
        scores=dict(scores.scores),
        majority=metrics.majority(settings.task, data.problem, train_targets, dev_targets, manifest.labels),
        history=result.history,
        best_epoch=result.best_epoch,
        num_trained=result.num_trained,
        num_backbone=sum(part.numel() for part in result.model.backbone.model.parameters()),
        num_train=len(data.train),
        num_dev=len(data.dev),
        num_skipped=result.num_skipped,
        seconds=time.monotonic() - started,
        log=result.log,
    )


def _metrics(settings: TrainSettings, report: Report) -> list[Metric]:
    dataset = settings.dataset or Path(settings.dev_file).name
    return [
        Metric(name=name, value=round(value, 4), dataset=dataset, split="dev", num_examples=report.num_dev)
        for name, value in report.scores.items()
    ]
