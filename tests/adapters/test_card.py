"""The card: what it says of each kind of adapter, and its front matter as Hugging Face reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.claims import claims_of
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.training.card import Report, render_card
from synthetic import MakeSettings
from tiny import make_manifest

REPORT = Report(
    main="accuracy",
    scores={"accuracy": 0.75, "macro_f1": 0.7},
    majority={"accuracy": 0.5},
    history=[0.5, 0.75, 0.6],
    best_epoch=2,
    num_trained=1234,
    num_backbone=100_000,
    num_train=160,
    num_dev=40,
    num_skipped=0,
    seconds=12.4,
    exact_scores={"accuracy": 0.7512, "macro_f1": 0.7},
    without_prefix={"accuracy": 0.6, "macro_f1": 0.5},
)


@pytest.fixture
def manifest(spec: BackboneSpec) -> Manifest:
    return make_manifest(spec)


def front_matter(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    pairs = [line.partition(": ") for line in head.splitlines()]
    return {name: json.loads(value) for name, _, value in pairs}


def test_all_numbers_of_the_run(make_settings: MakeSettings, manifest: Manifest) -> None:
    settings = make_settings(dataset="marks", source="synthetic", licence="CC BY 4.0", command="prefixrack train …")
    card = render_card(settings, manifest, REPORT)
    for line in (
        "A text-classification adapter (deep prefix of 4 vectors and a head) for the frozen backbone",
        "On dev of marks, 40 examples:",
        "| accuracy | 0.7500 | 0.6000 | 0.5000 |",
        "| macro_f1 | 0.7000 | 0.5000 | – |",
        "Before the cast to the stored dtype: accuracy 0.7512.",
        "- Data set: marks; 160 training and 40 dev examples\n",
        "- Source: synthetic",
        "- Licence: CC BY 4.0",
        "- Method: p-tuning-v2\n",
        "- Learning rate 0.03, 8 examples a step, weight decay 0, warm-up 0.06",
        "- Seed 13, best epoch 2 of 3; dev accuracy by epoch: 0.5000, 0.7500, 0.6000",
        "- Trained parameters: 1,234, 1.23% of the backbone",
        "- Time: 12 s",
        "```bash\nprefixrack train …\n```",
    ):
        assert line in card
    for source in (settings.train_file, settings.dev_file):
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()
        assert f"- `{Path(source).name}`: sha256 `{digest}`" in card
    assert "\n\n\n" not in card, "an empty description leaves no gap"


def test_the_front_matter_has_scores_with_their_data_set(make_settings: MakeSettings, manifest: Manifest) -> None:
    claims = claims_of(REPORT.scores | {"best_f1_threshold": 0.5}, "marks", "dev", REPORT.num_dev)
    manifest = manifest.model_copy(update={"metrics": claims})
    fields = front_matter(render_card(make_settings(dataset="marks", licence="MIT"), manifest, REPORT))
    assert fields["license"] == "mit"
    assert fields["tags"] == ["p-tuning-v2", "prompt-adapter"]
    assert fields["metrics"] == ["accuracy", "macro_f1"]
    (result,) = fields["model-index"][0]["results"]
    assert result == {
        "task": {"type": "text-classification"},
        "dataset": {"name": "marks", "type": "marks", "split": "dev"},
        "metrics": [{"type": "accuracy", "value": 0.75}, {"type": "macro_f1", "value": 0.7}],
    }
    unnamed = front_matter(render_card(make_settings(), manifest, REPORT))
    assert unnamed["datasets"] == []


def test_the_learning_rate_in_effect(make_settings: MakeSettings, manifest: Manifest) -> None:
    assert "- Learning rate 0.01, " in render_card(make_settings(learning_rate=None), manifest, REPORT)
    assert "- Learning rate 0.03 (head 0.001), " in render_card(
        make_settings(head_learning_rate=1e-3, backbone_dropout=True), manifest, REPORT
    )


def test_a_soft_prompt(make_settings: MakeSettings, spec: BackboneSpec) -> None:
    card = render_card(make_settings(method="prompt-tuning"), make_manifest(spec, prompt="once"), REPORT)
    assert "(soft prompt of 4 vectors before the words, and a head)" in card
    assert "- Method: prompt-tuning\n" in card
    assert front_matter(card)["tags"] == ["prompt-tuning", "prompt-adapter"]


def test_a_prefix_in_some_layers(make_settings: MakeSettings, manifest: Manifest) -> None:
    some = manifest.model_copy(update={"prefix": manifest.prefix.model_copy(update={"layers": [1]})})
    assert "(deep prefix of 4 vectors in layers 1 of 0 to 1 and a head)" in render_card(make_settings(), some, REPORT)


def test_a_head_alone(make_settings: MakeSettings, spec: BackboneSpec) -> None:
    assert "adapter (a head alone)" in render_card(make_settings(), make_manifest(spec, prefix_len=0), REPORT)


def test_how_the_prefix_was_made(make_settings: MakeSettings, manifest: Manifest, tmp_path: Path) -> None:
    options = {"prefix_dropout": 0.1, "batch_tokens": 500, "gradient_accumulation": 2, "init_from": tmp_path}
    card = render_card(make_settings(reparameterization="mlp", **options), manifest, REPORT)
    assert "- Method: p-tuning-v2, reparameterized by an MLP, begun from another bundle, prefix dropout 0.1\n" in card
    assert ", 500 tokens × 2 a step, " in card
    assert str(tmp_path) not in card


def test_several_data_sets(make_settings: MakeSettings, manifest: Manifest) -> None:
    report = replace(REPORT, joined=["wsc", "snli"])
    shared = render_card(make_settings(method="multitask"), manifest, report)
    assert "- Trained together with wsc, snli: one shared prefix, a head each\n" in shared
    assert "dev mean score of all sets by epoch: 0.5000" in shared
    assert front_matter(shared)["tags"] == ["p-tuning-v2", "multitask", "prompt-adapter"]
    tuned = render_card(make_settings(method="multitask", tune_epochs=3), manifest, report)
    assert "then tuned alone (epochs: at most 3, learning rate 0.03)" in tuned
    assert "dev accuracy by epoch: 0.5000" in tuned


def test_pictures_and_the_choice_among_runs(make_settings: MakeSettings, manifest: Manifest) -> None:
    card = render_card(make_settings(), manifest, REPORT, ["curves.svg", "confusion.svg"], ["The best of 3 runs."])
    scores = card[card.index("## Scores") : card.index("## Data")]
    assert "\n\nThe best of 3 runs.\n\n![curves](curves.svg)\n![confusion](confusion.svg)\n" in scores
    assert "![" not in render_card(make_settings(), manifest, REPORT)
