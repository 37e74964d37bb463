"""`prefixrack train` from files to a bundle with metrics and a card: the one place where a run is put together."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prefixrack.errors import InvalidRequest
from prefixrack_adapters import metrics
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import write_bundle
from prefixrack_adapters.evaluation import Evaluation, evaluate
from prefixrack_adapters.manifest import (
    BackboneRef,
    DecodingSpec,
    DenseLayer,
    HeadSpec,
    Manifest,
    Metric,
    PrefixSpec,
    Provenance,
    Tagging,
    TokenizationSpec,
    check_tags,
)
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.card import Report, render_card
from prefixrack_adapters.training.data import Example, labels_of, problem_of, read_examples
from prefixrack_adapters.training.progress import TrainingProgress
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.trainer import TrainingResult, train_prompt, training_backbone

THRESHOLDS = [round(0.05 * step, 2) for step in range(2, 17)]
MAX_TUNING_EXAMPLES = 2000
METRICS_FILE = "metrics.json"


@dataclass(frozen=True, slots=True)
class TrainingData:
    train: list[Example]
    dev: list[Example]
    labels: list[str]
    problem: str


def run_training(settings: TrainSettings) -> Report:
    """Train, score the adapter as it will serve (float32), and write the bundle to `settings.output`.

    The fine-tuning baseline writes no bundle, only its `metrics.json`.
    """
    started = time.monotonic()
    data = read_data(settings)
    backbone = training_backbone(settings)
    manifest = draft_manifest(settings, backbone.spec, data)
    bar = TrainingProgress(metrics.main_metric(settings.task, data.problem, manifest.decoding.no_answer))
    result = train_prompt(settings, backbone, manifest, data.train, data.dev, [bar])
    backbone.model.eval()
    if settings.method == "fine-tuning":
        report = _baseline_report(settings, data, manifest, result, backbone, started)
    else:
        report = _write(settings, data, manifest, result, started)
    write_metrics(settings.output, report)
    return report


def write_metrics(folder: Path, report: Report) -> None:
    """The whole report beside the bundle, for tables and comparisons; it is not part of the bundle."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")


def read_data(settings: TrainSettings) -> TrainingData:
    train = read_examples(settings.train_file, settings.task, settings.columns)
    dev = read_examples(settings.dev_file, settings.task, settings.columns)
    labels = labels_of(settings.task, train)
    if settings.task == "token-classification":
        check_tags(labels, _tagging(labels))
    unknown = sorted(set(labels_of(settings.task, dev)) - set(labels)) if labels else []
    if unknown:
        raise InvalidRequest(
            f"{settings.dev_file} has labels that {settings.train_file} lacks: {unknown[:5]}; every dev label must "
            "occur in the training data"
        )
    return TrainingData(train, dev, labels, problem_of(settings.task, train))


def draft_manifest(settings: TrainSettings, spec: BackboneSpec, data: TrainingData) -> Manifest:
    """The manifest of the run before anything is measured."""
    prefix_len = settings.prefix_len if settings.method == "p-tuning-v2" else 0
    has_null = settings.task == "question-answering" and any(not one.target.texts for one in data.train)  # type: ignore[union-attr]
    is_windowed = settings.task in ("token-classification", "question-answering")
    return Manifest(
        name=settings.name,
        description=settings.description,
        task=settings.task,
        labels=data.labels,
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=PrefixSpec(
            prefix_len=prefix_len,
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
        ),
        head=head_spec(settings, spec, data),
        tokenization=TokenizationSpec(
            max_len=min(settings.max_len, spec.max_tokens(spec.first_position(prefix_len, "after_prefix"))),
            stride=settings.stride,
            overlong="window" if is_windowed else "error",
        ),
        decoding=DecodingSpec(problem=data.problem, tagging=_tagging(data.labels), no_answer=has_null),
        example=_short_example(data.dev),
        provenance=Provenance(
            tool="prefixrack",
            tool_version=version("prefixrack"),
            method=settings.method,
            seed=settings.seed,
            libraries={name: version(name).partition("+")[0] for name in ("torch", "transformers", "tokenizers")},
            settings=_recorded(settings),
        ),
        licence=settings.licence,
    )


def head_spec(settings: TrainSettings, spec: BackboneSpec, data: TrainingData) -> HeadSpec:
    """Linear on every token for spans; a (tanh pooler and) linear on the first token for whole texts."""
    match settings.task:
        case "token-classification":
            return HeadSpec(gather="every_token", layers=[DenseLayer(num_outputs=len(data.labels))])
        case "question-answering":
            return HeadSpec(gather="every_token", layers=[DenseLayer(num_outputs=2)])
        case "multiple-choice":
            num_outputs = 1
        case _:
            num_outputs = 1 if data.problem == "regression" else len(data.labels)
    pooler = [DenseLayer(num_outputs=spec.hidden_size, activation="tanh")] if settings.head == "pooler" else []
    return HeadSpec(gather="first_token", layers=[*pooler, DenseLayer(num_outputs=num_outputs)])


def _tagging(labels: Sequence[str]) -> Tagging:
    return "bioes" if any(label.startswith(("E-", "S-")) for label in labels) else "bio"


def _short_example(dev: Sequence[Example]) -> Any:
    """The shortest of the first dev examples: something to show and to probe with."""
    return min((one.input for one in dev[:50]), key=lambda value: len(str(value)))


def _recorded(settings: TrainSettings) -> dict[str, Any]:
    """What shaped the result; paths of this machine stay out of the bundle."""
    paths = {"backbone", "train_file", "dev_file", "output", "command"}
    told_elsewhere = {"name", "task", "description", "licence", "dataset", "source", "seed", "device", "columns"}
    return settings.model_dump(mode="json", exclude=paths | told_elsewhere)


def _write(
    settings: TrainSettings, data: TrainingData, draft: Manifest, result: TrainingResult, started: float
) -> Report:
    backbone = Backbone.load(settings.backbone, settings.device)
    arrays = result.model.arrays()
    manifest = tuned_decoding(draft, arrays, backbone, data)
    plain = _adapter(manifest, arrays, backbone)
    exact = evaluate(backbone, plain, data.dev)
    manifest, arrays = _stored_dtypes(settings, manifest, arrays)
    adapter = _adapter(manifest, arrays, backbone)
    scores = evaluate(backbone, adapter, data.dev)
    report = _report(settings, data, manifest, result, scores, started)
    report.exact_scores.update(exact.scores)
    report.without_prefix.update(evaluate(backbone, adapter.without_prefix(), data.dev).scores)
    manifest = manifest.model_copy(update={"metrics": _metrics(settings, report)})
    write_bundle(settings.output, manifest, arrays, render_card(settings, manifest, report))
    return report


def _adapter(manifest: Manifest, arrays: dict[str, Any], backbone: Backbone) -> Adapter:
    return Adapter.from_arrays(manifest, arrays, device=backbone.device, dtype=backbone.dtype)


def tuned_decoding(manifest: Manifest, arrays: dict[str, Any], backbone: Backbone, data: TrainingData) -> Manifest:
    """The manifest with the thresholds that score best.

    Several labels: the best micro F1 on a sample of the training data. No-answer questions: the best F1 on dev, as
    SQuAD 2.0's official script chooses it (the share of unanswerable questions decides it, and that is dev's).
    """
    if manifest.decoding.no_answer:
        scores = evaluate(backbone, _adapter(manifest, arrays, backbone), data.dev).scores
        return _with_decoding(manifest, null_threshold=scores["best_f1_threshold"])
    if manifest.decoding.problem != "multi_label":
        return manifest
    step = max(1, len(data.train) // MAX_TUNING_EXAMPLES)
    sample = data.train[::step]
    tried = {}
    for threshold in THRESHOLDS:
        candidate = _with_decoding(manifest, threshold=threshold)
        tried[threshold] = evaluate(backbone, _adapter(candidate, arrays, backbone), sample).value
    return _with_decoding(manifest, threshold=max(tried, key=lambda threshold: tried[threshold]))


def _with_decoding(manifest: Manifest, **update: float) -> Manifest:
    return manifest.model_copy(update={"decoding": manifest.decoding.model_copy(update=update)})


def _stored_dtypes(
    settings: TrainSettings, manifest: Manifest, arrays: dict[str, Any]
) -> tuple[Manifest, dict[str, Any]]:
    """Cast to the stored dtype; the score that counts is measured on what is stored."""
    if settings.prefix_dtype == "float32":
        return manifest, arrays
    prefix = manifest.prefix.model_copy(update={"dtype": "float16"})
    head = manifest.head.model_copy(update={"dtype": "float16"})
    cast = {name: values.astype(np.float16) for name, values in arrays.items()}
    return manifest.model_copy(update={"prefix": prefix, "head": head}), cast


def _baseline_report(
    settings: TrainSettings,
    data: TrainingData,
    manifest: Manifest,
    result: TrainingResult,
    backbone: Backbone,
    started: float,
) -> Report:
    arrays = result.model.arrays()
    manifest = tuned_decoding(manifest, arrays, backbone, data)
    scores = evaluate(backbone, _adapter(manifest, arrays, backbone), data.dev)
    return _report(settings, data, manifest, result, scores, started)


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
        history=[one.value for one in result.history],
        best_epoch=result.best_epoch,
        num_trained=result.num_trained,
        num_backbone=sum(part.numel() for part in result.model.backbone.model.parameters()),
        num_train=len(data.train),
        num_dev=len(data.dev),
        num_skipped=result.num_skipped,
        seconds=time.monotonic() - started,
    )


def _metrics(settings: TrainSettings, report: Report) -> list[Metric]:
    dataset = settings.dataset or Path(settings.dev_file).name
    return [
        Metric(name=name, value=round(value, 4), dataset=dataset, split="dev", num_examples=report.num_dev)
        for name, value in report.scores.items()
    ]
