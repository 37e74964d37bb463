"""The model card: a README with Hugging Face front matter, written from what the run recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefixrack_adapters.bundle import file_sha256
from prefixrack_adapters.card_claims import BEGIN, END, FENCE, front_line, hub_fields
from prefixrack_adapters.manifest import Manifest, PromptSpec
from prefixrack_adapters.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Report:
    """What a run measured. Scores are on dev; `exact_scores` before the cast to the stored dtype.

    `joined` are the other data sets of a multi-task run; `stopped_early` says that dev had stopped getting better.
    """

    main: str
    scores: dict[str, float]
    majority: dict[str, float]
    history: list[float]
    best_epoch: int
    num_trained: int
    num_backbone: int
    num_train: int
    num_dev: int
    num_skipped: int
    seconds: float
    exact_scores: dict[str, float] = field(default_factory=dict)
    without_prefix: dict[str, float] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    stopped_early: bool = False


def render_card(
    settings: TrainSettings,
    manifest: Manifest,
    report: Report,
    pictures: Sequence[str] = (),
    selection: Sequence[str] = (),
) -> str:
    """`pictures` are names of files beside the card; `selection` are lines on how the run was chosen among several."""
    parts = [
        _front_matter(settings, manifest),
        [f"# {manifest.name}"],
        [manifest.description] if manifest.description else [],
        [_summary(manifest)],
        ["## Scores", "", *_scores(settings, report), *_chosen(selection), *_shown_pictures(pictures), "", BEGIN, END],
        ["## Data", "", *_data(settings, report)],
        ["## Training", "", *_training(settings, report)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _front_matter(settings: TrainSettings, manifest: Manifest) -> list[str]:
    fields = {
        "license": (settings.licence or "unknown").lower().replace(" ", "-"),
        "library_name": "prefixrack",
        "pipeline_tag": manifest.task,
        "base_model": manifest.backbone.model_id,
        "tags": [*(["p-tuning-v2"] if settings.method == "multitask" else []), settings.method, "prompt-adapter"],
        "datasets": [settings.dataset] if settings.dataset else [],
    } | hub_fields(manifest)
    return [FENCE, *(front_line(name, value) for name, value in fields.items()), FENCE]


def dataset_name(settings: TrainSettings) -> str:
    """What scores on dev were measured on."""
    return settings.dataset or Path(settings.dev_file).name


def _summary(manifest: Manifest) -> str:
    backbone = manifest.backbone.model_id
    return f"A {manifest.task} adapter ({_parts(manifest)}) for the frozen backbone `{backbone}`."


def _parts(manifest: Manifest) -> str:
    prefix = manifest.prefix
    if isinstance(prefix, PromptSpec):
        return f"soft prompt of {prefix.prefix_len} vectors before the words, and a head"
    if not prefix.prefix_len:
        return "a head alone"
    layers = "" if prefix.layers is None else ", ".join(map(str, prefix.layers))
    where = f" in layers {layers} of 0 to {prefix.num_layers - 1}" if layers else ""
    return f"deep prefix of {prefix.prefix_len} vectors{where} and a head"


def _scores(settings: TrainSettings, report: Report) -> list[str]:
    columns = ["adapter", "prefix removed", "majority"]
    lines = [
        f"On dev of {dataset_name(settings)}, {report.num_dev} examples:",
        "",
        f"| dev | {' | '.join(columns)} |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, value in report.scores.items():
        others = [report.without_prefix.get(name), report.majority.get(name)]
        lines.append(f"| {name} | {value:.4f} | {' | '.join(_shown(other) for other in others)} |")
    if report.exact_scores:
        lines += ["", f"Before the cast to the stored dtype: {report.main} {report.exact_scores[report.main]:.4f}."]
    return lines


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _chosen(selection: Sequence[str]) -> list[str]:
    return ["", *selection] if selection else []


def _shown_pictures(pictures: Sequence[str]) -> list[str]:
    return ["", *(f"![{Path(name).stem}]({name})" for name in pictures)] if pictures else []


def _data(settings: TrainSettings, report: Report) -> list[str]:
    skipped = f", {report.num_skipped} skipped as empty" if report.num_skipped else ""
    return [
        f"- Data set: {settings.dataset or 'not given'}; {report.num_train} training and {report.num_dev} dev examples"
        + skipped,
        f"- Source: {settings.source or 'not given'}",
        f"- Licence: {settings.licence or 'not given'}",
        *(f"- {_file(source)}" for source in (settings.train_file, settings.dev_file)),
    ]


def _training(settings: TrainSettings, report: Report) -> list[str]:
    history = ", ".join(f"{value:.4f}" for value in report.history)
    score = "mean score of all sets" if report.joined and not settings.tune_epochs else report.main
    return [
        f"- Method: {settings.method}{_method_options(settings)}",
        *_together(settings, report),
        f"- {_rates(settings)}, {_batch(settings)}, weight decay {settings.weight_decay:g}, "
        f"warm-up {settings.warmup:g}",
        f"- Seed {settings.seed}, {epochs_in_words(report)}; dev {score} by epoch: {history}",
        f"- Trained parameters: {trained_in_words(report)}",
        f"- Time: {report.seconds:.0f} s",
        "- Command:",
        "",
        "```bash",
        settings.command,
        "```",
    ]


def epochs_in_words(report: Report) -> str:
    stopped = " (stopped there: dev got no better)" if report.stopped_early else ""
    return f"best epoch {report.best_epoch} of {len(report.history)}{stopped}"


def trained_in_words(report: Report) -> str:
    return f"{report.num_trained:,}, {report.num_trained / report.num_backbone:.2%} of the backbone"


def _method_options(settings: TrainSettings) -> str:
    options = {
        "reparameterized by an MLP": settings.reparameterization == "mlp",
        "begun from the backbone's own keys and values of words": settings.prefix_init == "words",
        "begun from another bundle": settings.init_from is not None,
        f"prefix dropout {settings.prefix_dropout:g}": settings.prefix_dropout > 0,
        "without the backbone's own dropout": not settings.backbone_dropout,
    }
    return "".join(f", {words}" for words, is_so in options.items() if is_so)


def _together(settings: TrainSettings, report: Report) -> list[str]:
    if not report.joined:
        return []
    line = f"- Trained together with {', '.join(report.joined)}: one shared prefix, a head each"
    if settings.tune_epochs:
        line += f"; then tuned alone (epochs: at most {settings.tune_epochs}, learning rate {settings.tune_rate:g})"
    return [line]


def _rates(settings: TrainSettings) -> str:
    of_head = f" (head {settings.head_rate:g})" if settings.head_rate != settings.rate else ""
    return f"Learning rate {settings.rate:g}{of_head}"


def _batch(settings: TrainSettings) -> str:
    size = f"{settings.batch_size} examples" if settings.batch_tokens is None else f"{settings.batch_tokens} tokens"
    times = f" × {settings.gradient_accumulation}" if settings.gradient_accumulation > 1 else ""
    return f"{size}{times} a step"


def _file(source: str) -> str:
    """A file by its name and bytes; anything else, such as a hub id, as it was given."""
    path = Path(source)
    return f"`{path.name}`: sha256 `{file_sha256(path)}`" if path.is_file() else f"`{source}`"
