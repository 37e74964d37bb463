"""The benchmarks' input: seeded texts of natural lengths, adapter popularities, random adapters. Measures nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixrack.types import Parameters
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE, digest_of, file_sha256, write_bundle
from prefixrack_adapters.manifest import (
    BackboneRef,
    DenseLayer,
    HeadSpec,
    Manifest,
    Positions,
    PrefixSpec,
    Provenance,
    TokenizationSpec,
)
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tasks import Prepared, build_task
from prefixrack_adapters.tokenizer import BackboneTokenizer
from prefixrack_server.messages import BundleRef

POPULARITIES = ("identical", "uniform", "skewed", "distinct")
MIN_LEN, MAX_LEN = 6, 128
LABELS = ["one", "two", "three"]
NUM_SPECIAL_TOKENS = 2


@dataclass(frozen=True)
class RandomAdapter:
    name: str
    folder: Path
    bundle: BundleRef
    manifest: Manifest


@dataclass(frozen=True)
class Request:
    """One text for one adapter; `row` is the text as the adapter's task makes it."""

    adapter: RandomAdapter
    text: str
    row: Row


def natural_lengths(num_rows: int, random: np.random.Generator) -> list[int]:
    """Token counts, special tokens included: lognormal(3.2, 0.6), clipped to 6..128."""
    lengths = np.clip(random.lognormal(3.2, 0.6, num_rows).round(), MIN_LEN, MAX_LEN)
    return [int(length) for length in lengths]


def random_texts(backbone: Path, num_rows: int, random: np.random.Generator, row_len: int | None = None) -> list[str]:
    """Texts of whole-word tokens, so that a text's length in tokens is known before it is tokenised.

    Of natural lengths, or each of `row_len` tokens.
    """
    vocabulary = json.loads((backbone / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and word.islower())
    lengths = natural_lengths(num_rows, random) if row_len is None else [row_len] * num_rows
    return [" ".join(random.choice(words, length - NUM_SPECIAL_TOKENS)) for length in lengths]


def make_rows(texts: Sequence[str], manifest: Manifest, spec: BackboneSpec, tokenizer: BackboneTokenizer) -> list[Row]:
    """The one row of each text, as an adapter with this manifest makes it."""
    prepared = build_task(manifest, spec, tokenizer).prepare_many(texts, Parameters())
    return [one.rows[0] for one in prepared if isinstance(one, Prepared)]


def popular_indices(popularity: str, num_rows: int, num_adapters: int, random: np.random.Generator) -> list[int]:
    """Which adapter each row names. `skewed` is Zipf: the k-th adapter is asked 1/k as often as the first."""
    if popularity == "identical":
        return [0] * num_rows
    if popularity == "distinct":
        return [index % num_adapters for index in range(num_rows)]
    weights = 1.0 / np.arange(1, num_adapters + 1) if popularity == "skewed" else np.ones(num_adapters)
    return [int(index) for index in random.choice(num_adapters, num_rows, p=weights / weights.sum())]


def write_adapters(
    folder: Path, spec: BackboneSpec, num_adapters: int, prefix_len: int, first: int = 0
) -> list[RandomAdapter]:
    """Random adapters as bundle folders: each has weights of its own. `first` is the number of the first one."""
    numbers = range(first, first + num_adapters)
    return [_write_adapter(folder / f"random-{number}", spec, number, prefix_len) for number in numbers]


def _write_adapter(folder: Path, spec: BackboneSpec, index: int, prefix_len: int) -> RandomAdapter:
    manifest = random_manifest(folder.name, spec, prefix_len)
    return store_adapter(folder, manifest, random_tensors(manifest, spec, [index, prefix_len]))


def random_tensors(manifest: Manifest, spec: BackboneSpec, seed: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shapes = manifest.tensor_shapes(spec.hidden_size)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def store_adapter(folder: Path, manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> RandomAdapter:
    write_bundle(folder, manifest, tensors)
    hashes = file_sha256(folder / MANIFEST_FILE), file_sha256(folder / TENSORS_FILE)
    return RandomAdapter(folder.name, folder, BundleRef(digest_of(*hashes), *hashes), manifest)


def random_manifest(
    name: str,
    spec: BackboneSpec,
    prefix_len: int,
    *,
    positions: Positions = "after_prefix",
    head: Sequence[DenseLayer] = (DenseLayer(num_outputs=len(LABELS)),),
) -> Manifest:
    return Manifest(
        name=name,
        task="text-classification",
        labels=LABELS,
        backbone=BackboneRef(model_id=spec.model_id, architecture=spec.architecture, fingerprint=spec.fingerprint),
        prefix=PrefixSpec(
            prefix_len=prefix_len,
            num_layers=spec.num_layers,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            positions=positions,
        ),
        head=HeadSpec(gather="first_token", layers=list(head)),
        tokenization=TokenizationSpec(max_len=MAX_LEN),
        provenance=Provenance(tool="benchmarks", tool_version="1", method="random"),
    )


def count_tokens(requests: Sequence[Request]) -> int:
    return sum(len(request.row) for request in requests)
