"""What the documentation's commands find where they are typed: the checkout, data, bundles, a backbone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from docs_data_sets import write_data
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
VENV = ".venv"
# In this order: `make` takes them for newer than what they were made from, and installs nothing.
EMPTY_FILES = ("bin/activate", "torch.stamp", "demo.stamp", "dev.stamp")
# What of the checkout a command writes into; all else is only read, and the reader has links to it.
COPIED = ("deploy/compose",)
EMPTY = ("benchmarks/results",)


def make_workplace(folder: Path, backbone: Path) -> None:
    """A checkout after `make`, with the reader's own files beside it."""
    link_checkout(folder, ROOT)
    for name in EMPTY_FILES:
        (folder / VENV / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / VENV / name).touch()
    shutil.copytree(backbone, folder / "base")
    write_data(folder)
    (folder / "texts.txt").write_text("what is my balance\nplay the next song\n")
    (folder / "in.jsonl").write_text('"what is my balance"\n{"id": 7, "inputs": "play the next song"}\n')
    (folder / "in.csv").write_text("text\nwhat is my balance\nplay the next song\n")
    write_claiming_bundle(folder / "intent", backbone, seed=0)
    (folder / "intent" / "README.md").write_text("# intent\n")
    write_claiming_bundle(folder / "bundles" / "intent", backbone, seed=1)
    shutil.copytree(ROOT / "adapters" / "examples" / "intent", folder / "my-bundle")


def link_checkout(folder: Path, checkout: Path, place: str = "") -> None:
    """Links to what is in it; folders on the way to a place that is written into are folders of the reader's own."""
    (folder / place).mkdir(parents=True)
    for source in (checkout / place).iterdir():
        name = source.relative_to(checkout).as_posix()
        if name in COPIED:
            shutil.copytree(source, folder / name)
        elif name in EMPTY:
            (folder / name).mkdir()
        elif any(path.startswith(f"{name}/") for path in (*COPIED, *EMPTY)):
            link_checkout(folder, checkout, name)
        elif not source.name.startswith("."):
            (folder / name).symlink_to(source)


def write_claiming_bundle(folder: Path, backbone: Path, seed: int) -> None:
    """One named `intent`, with scores that a promotion can ask for."""
    write_tiny_bundle(folder, BackboneSpec.load(backbone), "intent", "text-classification", list(INTENTS), seed)
    path = folder / MANIFEST_FILE
    metrics = [Metric(name=name, value=value, dataset=dataset) for name, (dataset, value) in CLAIMS.items()]
    path.write_bytes(parse_manifest(path.read_bytes()).model_copy(update={"metrics": metrics}).to_bytes())


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
