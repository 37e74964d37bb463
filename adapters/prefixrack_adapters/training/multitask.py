"""Multi-task training (MPT-2): one prefix for several data sets with a head each, then tuned for each alone.

Source: the P-Tuning v2 paper (arXiv 2110.07602), section 3.2, "multi-task learning". Gives one bundle per data set.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from prefixrack.errors import InvalidRequest
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.training.card import Report
from prefixrack_adapters.training.drafts import TrainingData, draft_manifest, read_data
from prefixrack_adapters.training.memory import told_if_out_of_memory
from prefixrack_adapters.training.model import Arrays
from prefixrack_adapters.training.progress import Watch, watched
from prefixrack_adapters.training.run import asked_for, finish_part, main_metric_of, start_of, train_watched
from prefixrack_adapters.training.settings import TrainSettings
from prefixrack_adapters.training.staging import Workspace
from prefixrack_adapters.training.trackers import check_trackers
from prefixrack_adapters.training.trainer import DataSet, TrainingResult, training_backbone

FIELDS = {
    "train": "train_file",
    "dev": "dev_file",
    "train_split": "train_split",
    "dev_split": "dev_split",
    "task": "task",
    "columns": "columns",
    "labels": "labels",
    "input_format": "input_format",
    "max_len": "max_len",
    "dataset": "dataset",
    "source": "source",
    "licence": "licence",
    "description": "description",
}


def read_sets(path: Path) -> dict[str, dict[str, Any]]:
    """The data sets of a TOML file: a table each, by name, with the fields of settings that it sets.

    Paths in it are relative to the file. Raises InvalidRequest, naming what is wrong with which table.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as TOML ({error}): one table [name] for each data set") from None
    if len(tables) < 2 or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidRequest(
            f"{path} has {len(tables)} entries: at least two tables [name] with train and dev are needed"
        )
    return {name: _fields(path, name, table) for name, table in tables.items()}


def _fields(path: Path, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(table.keys() - FIELDS.keys())
    missing = sorted({"train", "dev"} - table.keys())
    if unknown or missing:
        raise InvalidRequest(
            f"{path}, table {name}: lacks {missing or 'nothing'}, has unknown fields {unknown or 'none'}; known are "
            f"{', '.join(FIELDS)}"
        )
    fields = {FIELDS[key]: value for key, value in table.items()}
    for key in ("train_file", "dev_file"):
        if not isinstance(fields[key], str):
            option = key.removesuffix("_file")
            raise InvalidRequest(f"{path}, table {name}: {option} is {fields[key]!r}: a path or a hub id is needed")
        local = path.parent / fields[key]
        fields[key] = str(local) if local.exists() else fields[key]
    return fields


def run_multitask(
    settings: Sequence[TrainSettings], on_leftovers: str | None = None, watch: Watch | None = None
) -> dict[str, Report]:
    """Train the shared prefix, tune it for each data set if `tune_epochs` says so, and write a bundle for each.

    The settings differ in their data sets only; their outputs are folders of one parent.
    """
    started = time.monotonic()
    shared = settings[0]
    check_trackers(shared.trackers)
    data = [read_data(one) for one in settings]
    workspace = Workspace(shared.output.parent, asked_for(settings))
    with (
        told_if_out_of_memory(),
        workspace.opened(on_leftovers) as folder,
        watched(watch, shared.output.parent) as looking_on,
    ):
        backbone = training_backbone(shared)
        manifests = [draft_manifest(one, backbone.spec, own) for one, own in zip(settings, data, strict=True)]
        sets = [DataSet(manifest, own.train, own.dev) for manifest, own in zip(manifests, data, strict=True)]
        start = start_of(shared, manifests[0], backbone)
        count = 1 + (len(settings) if shared.tune_epochs else 0)
        callbacks = looking_on.callbacks(shared, "mean of scores", "shared", 1, count)
        result = train_watched(shared, backbone, sets, folder / "shared", callbacks, start)
        backbone.model.eval()
        starts = [result.model.arrays(part) for part in range(len(sets))]
        reports = {}
        for part, (one, own, manifest) in enumerate(zip(settings, data, manifests, strict=True)):
            if shared.tune_epochs:
                metric = main_metric_of(manifest, own)
                callbacks = looking_on.callbacks(one, metric, f"tuned/{one.name}", part + 2, count)
                place = folder / "tuned" / one.name
                tuned = _tune(one, own, manifest, backbone, place, starts[part], callbacks)
                reports[one.name] = finish_part(one, own, manifest, tuned, 0, started, _others(settings, part))
            else:
                reports[one.name] = finish_part(one, own, manifest, result, part, started, _others(settings, part))
    return reports


def _others(settings: Sequence[TrainSettings], part: int) -> list[str]:
    return [one.name for number, one in enumerate(settings) if number != part]


def _tune(
    settings: TrainSettings,
    data: TrainingData,
    manifest: Manifest,
    backbone: Backbone,
    folder: Path,
    start: Arrays,
    callbacks: Sequence[TrainerCallback],
) -> TrainingResult:
    """The second phase: one data set alone, from the shared prefix and its own head."""
    changes = {"epochs": settings.tune_epochs, "reparameterization": "none", "learning_rate": settings.tune_rate}
    alone = settings.model_copy(update=changes)
    return train_watched(alone, backbone, [DataSet(manifest, data.train, data.dev)], folder, callbacks, start)
