"""The model card: a README with Hugging Face front matter, written from what the run recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from prefixrack_adapters.bundle import file_sha256
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.training.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Report:
    """What a run measured. Scores are on dev; `exact_scores` before the cast to the stored dtype."""

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


def render_card(settings: TrainSettings, manifest: Manifest, report: Report) -> str:
    return "\n".join([*_front_matter(settings, manifest), "", *_body(settings, manifest, report), ""])


def _front_matter(settings: TrainSettings, manifest: Manifest) -> list[str]:
    licence = (settings.licence or "unknown").lower().replace(" ", "-")
    fields = {
        "license": licence,
        "library_name": "prefixrack",
        "pipeline_tag": manifest.task,
        "base_model": manifest.backbone.model_id,
        "tags": ["p-tuning-v2", "prompt-adapter"],
        "datasets": [settings.dataset] if settings.dataset else [],
    }
    return ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()), "---"]


def _body(settings: TrainSettings, manifest: Manifest, report: Report) -> list[str]:
    return [
        f"# {manifest.name}",
        "",
        manifest.description,
        "",
        f"A {manifest.task} adapter (deep prefix of {manifest.prefix.prefix_len} vectors and a head) for the frozen "
        f"backbone `{manifest.backbone.model_id}`.",
        "",
        "## Scores",
        "",
        *_scores(report),
        "",
        "## Data",
        "",
        f"- Data set: {settings.dataset or 'not given'}; {report.num_train} training and {report.num_dev} dev examples"
        + (f", {report.num_skipped} skipped as empty" if report.num_skipped else ""),
        f"- Source: {settings.source or 'not given'}",
        f"- Licence: {settings.licence or 'not given'}",
        *(f"- {_file(source)}" for source in (settings.train_file, settings.dev_file)),
        "",
        "## Training",
        "",
        f"- Seed {settings.seed}, best epoch {report.best_epoch} of {len(report.history)}; "
        f"dev {report.main} by epoch: " + ", ".join(f"{value:.4f}" for value in report.history),
        f"- Trained parameters: {report.num_trained:,}, {report.num_trained / report.num_backbone:.2%} of the backbone",
        f"- Time: {report.seconds:.0f} s",
        "- Command:",
        "",
        "```bash",
        settings.command,
        "```",
    ]


def _scores(report: Report) -> list[str]:
    columns = ["adapter", "prefix removed", "majority"]
    lines = [f"| dev | {' | '.join(columns)} |", "| --- | ---: | ---: | ---: |"]
    for name, value in report.scores.items():
        others = [report.without_prefix.get(name), report.majority.get(name)]
        lines.append(f"| {name} | {value:.4f} | {' | '.join(_shown(other) for other in others)} |")
    if report.exact_scores:
        lines += ["", f"Before the cast to the stored dtype: {report.main} {report.exact_scores[report.main]:.4f}."]
    return lines


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _file(source: str) -> str:
    """A file by its name and bytes; anything else, such as a hub id, as it was given."""
    path = Path(source)
    return f"`{path.name}`: sha256 `{file_sha256(path)}`" if path.is_file() else f"`{source}`"
