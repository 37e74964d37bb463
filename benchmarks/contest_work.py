"""The work of a contest: rows, adapters and a model for one task, as files that every peer can read.

The adapters come twice: where their positions start after the prefix (P-Tuning v2, PEFT), and where the prefix does not
move them (AdapterHub). The model for one task is the same backbone and pooler with a classifier; to us it is an adapter
without a prefix.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from prefixrack_adapters.manifest import DenseLayer, Positions
from shapes import TOKENIZER_FILES
from stand import Stand
from workload import LABELS, RandomAdapter, Request, random_manifest, random_tensors, store_adapter

Kind = Literal["after_prefix", "unmoved", "one_task"]
Head = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ContestWork:
    """`sets` has, for each kind of adapters, lists of requests, each list to be computed at once: the same texts for
    adapters of the same names."""

    folder: Path
    adapters: list[RandomAdapter]
    sets: Mapping[Kind, list[list[Request]]]


def write_work(here: Stand, num_adapters: int, num_rows: int, num_sets: int, prefix_len: int) -> ContestWork:
    folder = here.work / "contest"
    head = write_model(here, folder / "model")
    kinds: dict[Kind, list[RandomAdapter]] = {
        "after_prefix": write_adapters(here, folder / "adapters", num_adapters, prefix_len, "after_prefix", head),
        "unmoved": write_adapters(here, folder / "adapters-unmoved", num_adapters, prefix_len, "unmoved", head),
        "one_task": [write_one_task(here, folder / "one-task", head)],
    }
    texts = here.texts(num_rows * num_sets)
    sets = {kind: cut(here.requests(texts, adapters, "distinct"), num_rows) for kind, adapters in kinds.items()}
    write_description(here, folder, prefix_len, kinds["after_prefix"], sets["after_prefix"])
    return ContestWork(folder, [adapter for adapters in kinds.values() for adapter in adapters], sets)


def cut(requests: Sequence[Request], num_rows: int) -> list[list[Request]]:
    return [list(requests[start : start + num_rows]) for start in range(0, len(requests), num_rows)]


def write_model(here: Stand, folder: Path) -> Head:
    """A stock model for one task, with its tokenizer. Returns its pooler and classifier as the head of a bundle."""
    labels = dict(enumerate(LABELS))
    config = AutoConfig.from_pretrained(
        here.folder, id2label=labels, label2id={label: index for index, label in labels.items()}
    )
    torch.manual_seed(here.seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.bert.load_state_dict(AutoModel.from_pretrained(here.folder).state_dict())
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (here.folder / name).is_file():
            shutil.copy(here.folder / name, folder)
    layers = (model.bert.pooler.dense, model.classifier)
    return {
        f"head.{index}.{part}": getattr(layer, part).detach().numpy()
        for index, layer in enumerate(layers)
        for part in ("weight", "bias")
    }


def head_layers(here: Stand) -> list[DenseLayer]:
    return [
        DenseLayer(num_outputs=here.backbone.spec.hidden_size, activation="tanh"),
        DenseLayer(num_outputs=len(LABELS)),
    ]


def write_adapters(
    here: Stand, folder: Path, num_adapters: int, prefix_len: int, positions: Positions, head: Head
) -> list[RandomAdapter]:
    """Each with a prefix and a classifier of its own; the pooler is the model's."""
    spec = here.backbone.spec
    stored = []
    for index in range(num_adapters):
        name = f"random-{index}"
        manifest = random_manifest(name, spec, prefix_len, positions=positions, head=head_layers(here))
        pooler = {part: values for part, values in head.items() if part.startswith("head.0.")}
        tensors = random_tensors(manifest, spec, [here.seed, index]) | pooler
        stored.append(store_adapter(folder / name, manifest, tensors))
    return stored


def write_one_task(here: Stand, folder: Path, head: Head) -> RandomAdapter:
    manifest = random_manifest(folder.name, here.backbone.spec, 0, head=head_layers(here))
    return store_adapter(folder, manifest, head)


def write_description(
    here: Stand,
    folder: Path,
    prefix_len: int,
    adapters: Sequence[RandomAdapter],
    sets: Sequence[Sequence[Request]],
) -> None:
    fields: dict[str, Any] = {
        "names": [adapter.name for adapter in adapters],
        "labels": LABELS,
        "prefix_len": prefix_len,
        "threads": here.threads,
        "device": here.backbone.device,
        "sets": [[described(request) for request in requests] for requests in sets],
    }
    (folder / "work.json").write_text(json.dumps(fields), encoding="utf-8")


def described(request: Request) -> dict[str, Any]:
    return {"text": request.text, "token_ids": list(request.row.token_ids), "adapter": request.adapter.name}
