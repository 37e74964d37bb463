"""What the documentation's commands find where they are typed: data, bundles, a backbone, another tool's adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from docs_site import ROOT
from prefixrack import Client
from prefixrack.errors import NotFoundError
from prefixrack.testing import TinyAdapter
from prefixrack_adapters.bundle import MANIFEST_FILE
from prefixrack_adapters.manifest import Metric, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.tiny_server import write_tiny_backbone, write_tiny_bundle

INTENTS = ("balance", "next_song", "weather")
# Those of the demo, and what the client's README has a test for.
ADAPTERS: Mapping[str, TinyAdapter] = {
    "cause": TinyAdapter("multiple-choice"),
    "emotions": TinyAdapter("text-classification", ("amusement", "joy", "sadness")),
    "intent": TinyAdapter("text-classification", INTENTS),
    "ner": TinyAdapter("token-classification", ("O", "B-person", "I-person", "B-place", "I-place")),
    "nli": TinyAdapter("text-classification", ("entailment", "neutral", "contradiction")),
    "qa": TinyAdapter("question-answering"),
    "sentiment": TinyAdapter("text-classification", ("negative", "positive")),
}
NUM_VERSIONS = 9
CLAIMS = {"accuracy": ("clinc150", 0.93), "f1": ("clinc150", 0.95), "span_f1": ("wnut17", 0.6)}
EMPTY_FILES = (".venv/bin/activate",)
FOLDERS = ("benchmarks/results",)
SAYINGS = {"on": "switch the {} on", "off": "no more {}"}
THINGS = ("lamp", "radio", "heating", "fan", "music", "pump")


def make_workplace(folder: Path, backbone: Path) -> None:
    folder.mkdir()
    for name in EMPTY_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    shutil.copytree(ROOT / "deploy" / "compose", folder / "deploy" / "compose")
    shutil.copytree(backbone, folder / "base")
    lines = [
        json.dumps({"text": text.format(thing), "label": label}) for label, text in SAYINGS.items() for thing in THINGS
    ]
    for name in ("train", "dev", "test"):
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "texts.txt").write_text("what is my balance\nplay the next song\n")
    (folder / "in.jsonl").write_text('"what is my balance"\n{"id": 7, "inputs": "play the next song"}\n')
    (folder / "in.csv").write_text("text\nwhat is my balance\nplay the next song\n")
    write_claiming_bundle(folder / "intent", backbone, seed=0)
    (folder / "intent" / "README.md").write_text("# intent\n")
    write_claiming_bundle(folder / "bundles" / "intent", backbone, seed=1)


def write_claiming_bundle(folder: Path, backbone: Path, seed: int) -> None:
    """One named `intent`, with scores that a promotion can ask for."""
    write_tiny_bundle(folder, BackboneSpec.load(backbone), "intent", "text-classification", list(INTENTS), seed)
    path = folder / MANIFEST_FILE
    metrics = [Metric(name=name, value=value, dataset=dataset) for name, (dataset, value) in CLAIMS.items()]
    path.write_bytes(parse_manifest(path.read_bytes()).model_copy(update={"metrics": metrics}).to_bytes())


def write_peft_adapter(folder: Path, backbone: Path) -> None:
    """What PEFT's `save_pretrained` writes after a prefix was trained; here it was drawn."""
    import torch
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
    get_peft_model(model, PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=4)).save_pretrained(
        str(folder)
    )


def make_backbone(folder: Path) -> Path:
    """The one that the tiny server has: the same weights each time."""
    return write_tiny_backbone(folder)


def push_versions(client: Client, folder: Path, backbone: Path) -> None:
    """`intent` up to version NUM_VERSIONS, each with claims but the first."""
    for number in range(2, NUM_VERSIONS + 1):
        bundle = folder / f"{number}"
        write_claiming_bundle(bundle, backbone, seed=100 + number)
        assert client.push("intent", bundle).version == number


def forget_promotions(client: Client) -> None:
    """Each page begins with what a server has on which nobody has promoted anything yet."""
    for name in ADAPTERS:
        client.set_gates(name, [])
        with suppress(NotFoundError):
            client.delete_alias(name, "production")
