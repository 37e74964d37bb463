"""The committed example adapters: sound, small, honest about their scores."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prefixrack_adapters.bundle import CARD_FILE, MANIFEST_FILE, TENSORS_FILE, check_bundle
from prefixrack_adapters.embedded import EMBEDDED, EMBEDDED_PACKAGE, resolve_backbone
from prefixrack_adapters.spec import BackboneSpec

EXAMPLES = Path(__file__).parents[1] / "adapters" / "examples"
BUNDLES = sorted(path.parent for path in EXAMPLES.glob(f"*/{MANIFEST_FILE}"))
MAX_BYTES = 1_000_000
MIN_GAP_CLOSED = 0.8
CLEARLY = 0.05  # the least that a score must fall when the prefix is removed
DATA = os.environ.get("PREFIXRACK_DATA")

needs_backbone = pytest.mark.skipif(
    importlib.util.find_spec(EMBEDDED_PACKAGE) is None, reason="the embedded backbone (extra `demo`) is not installed"
)


def report_of(bundle: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((bundle / "metrics.json").read_text())
    return report


def test_the_six_kinds_of_task_are_there() -> None:
    assert {bundle.name for bundle in BUNDLES} == {"cause", "emotions", "intent", "ner", "nli", "qa"}


@needs_backbone
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_bundle_passes_the_servers_own_checks(bundle: Path) -> None:
    spec = BackboneSpec.load(resolve_backbone(EMBEDDED))
    manifest = check_bundle((bundle / MANIFEST_FILE).read_bytes(), bundle / TENSORS_FILE, spec, "float32")
    assert manifest.name == bundle.name
    assert sum((bundle / name).stat().st_size for name in (MANIFEST_FILE, TENSORS_FILE)) < MAX_BYTES


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_prefix_does_the_work(bundle: Path) -> None:
    report = report_of(bundle)
    main = report["main"]
    assert report["scores"][main] - report["without_prefix"][main] > CLEARLY
    assert abs(report["scores"][main] - report["exact_scores"][main]) < 0.002, "the stored dtype costs score"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_card_says_where_everything_comes_from(bundle: Path) -> None:
    card = (bundle / CARD_FILE).read_text()
    for needed in ("sha256", "Licence: ", "Chosen: ", "Seed ", "prefixrack train", " @ ", "prefix removed", "majority"):
        assert needed in card
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    main = report_of(bundle)["main"]
    claimed = {metric["name"]: metric["value"] for metric in manifest["metrics"]}
    assert claimed[main] == pytest.approx(report_of(bundle)["scores"][main], abs=1e-4)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_adapter_closes_most_of_the_gap_to_fine_tuning_or_says_what_was_tried(bundle: Path) -> None:
    assert gap_closed(bundle) >= MIN_GAP_CLOSED or "## What was tried" in (bundle / CARD_FILE).read_text()


def gap_closed(bundle: Path) -> float:
    """0 where nothing was fine-tuned."""
    baseline = EXAMPLES / "baselines" / f"{bundle.name}.json"
    if not baseline.is_file():
        return 0.0
    report = report_of(bundle)
    main = report["main"]
    adapter, majority, tuned = report["scores"][main], report["majority"][main], json.loads(baseline.read_text())
    return float((adapter - majority) / (tuned["scores"][main] - majority))


def test_three_adapters_are_compared_with_fine_tuning() -> None:
    assert len(list((EXAMPLES / "baselines").glob("*.json"))) >= 3


def test_readme_is_what_the_runs_measured() -> None:
    subprocess.run([sys.executable, str(EXAMPLES / "make_readme.py"), "--check"], check=True)


@needs_backbone
@pytest.mark.skipif(DATA is None, reason="PREFIXRACK_DATA is not set: the dev data is not part of the repository")
def test_claimed_score_is_measured_again_from_the_bundle() -> None:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.evaluation import evaluate
    from prefixrack_adapters.training.data import read_examples

    assert DATA is not None
    examples = read_examples(Path(DATA) / "ecare" / "dev.jsonl.gz", "multiple-choice", {})
    backbone = Backbone.load(resolve_backbone(EMBEDDED), device="cpu")
    result = evaluate(backbone, Adapter.load(EXAMPLES / "cause"), examples)
    assert result.value == pytest.approx(report_of(EXAMPLES / "cause")["scores"]["accuracy"], abs=0.002)
