"""`prefixrack train`. Knows options; the run is in `training`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from prefixrack.errors import Fault, InvalidRequest
from prefixrack.types import TaskName
from prefixrack_adapters.commands.shared import column_mapping, print_scores, quiet_transformers, refuse
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone

if TYPE_CHECKING:
    from prefixrack_adapters.training.card import Report
    from prefixrack_adapters.training.settings import TrainSettings

NO_SETTINGS = ("as_json", "columns", "name", "sets", "train_file", "dev_file", "resume", "restart")


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    task: Annotated[TaskName | None, typer.Option(help="What the adapter does.")] = None,
    train_file: Annotated[
        str | None, typer.Option("--train", help="Training data: jsonl, csv or parquet, optionally .gz, or a hub id.")
    ] = None,
    dev_file: Annotated[str | None, typer.Option("--dev", help="Dev data in the same form.")] = None,
    train_split: Annotated[str, typer.Option(help="Split of a hub id given as --train.")] = "train",
    dev_split: Annotated[str, typer.Option(help="Split of a hub id given as --dev.")] = "validation",
    sets: Annotated[
        Path | None, typer.Option(help="For --method multitask: a TOML file with a table [name] for each data set.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")] = EMBEDDED,
    name: Annotated[str | None, typer.Option(help="Name of the adapter; the output folder's by default.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="canonical=yours, e.g. text=premise; repeat as needed.")
    ] = None,
    input_format: Annotated[str, typer.Option(help="The data set's own input form, e.g. srl, wsc, boolq.")] = "plain",
    labels: Annotated[
        str | None, typer.Option(help="All labels, with commas between; those that occur in --train by default.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="p-tuning-v2, prompt-tuning, multitask; baselines: fine-tuning, head-only (no bundle)."),
    ] = "p-tuning-v2",
    prefix_len: Annotated[int, typer.Option(help="Prefix vectors per layer, or those of a soft prompt.")] = 32,
    prefix_layers: Annotated[
        str | None, typer.Option(help="Layers with a prefix, e.g. 3,4,5, counted from 0; all by default.")
    ] = None,
    reparameterization: Annotated[str, typer.Option(help="none or mlp.")] = "none",
    init_from: Annotated[Path | None, typer.Option(help="A bundle whose prefix the run starts from.")] = None,
    head: Annotated[str, typer.Option(help="linear, or pooler (the backbone's tanh pooler + linear).")] = "linear",
    pooling: Annotated[
        str | None, typer.Option(help="first_token, last_token or, for embeddings, mean_tokens; by backbone.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="At most; see --patience.")] = 10,
    tune_epochs: Annotated[int, typer.Option(help="For multitask: then for each data set alone.")] = 0,
    tune_learning_rate: Annotated[float | None, typer.Option(help="Of that; as --learning-rate by default.")] = None,
    patience: Annotated[int, typer.Option(help="Epochs without a better dev score before stopping.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 32,
    batch_tokens: Annotated[int | None, typer.Option(help="About so many tokens in a step, instead.")] = None,
    pack_tokens: Annotated[int, typer.Option(help="Tokens computed at once: bounds memory, changes nothing.")] = 16384,
    gradient_accumulation: Annotated[int, typer.Option(help="Batches in a step.")] = 1,
    learning_rate: Annotated[float | None, typer.Option(help="The method's own by default.")] = None,
    weight_decay: float = 0.0,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the learning rate rises.")] = 0.06,
    prefix_dropout: float = 0.0,
    max_len: Annotated[int, typer.Option(help="Tokens per row, special tokens included.")] = 128,
    stride: Annotated[int, typer.Option(help="Tokens that neighbouring windows share.")] = 64,
    seed: int = 13,
    device: str = "auto",
    dtype: Annotated[str, typer.Option(help="Of the backbone in training: auto, float32, bfloat16.")] = "auto",
    prefix_dtype: Annotated[str, typer.Option(help="Stored dtype: float16 or float32.")] = "float16",
    trackers: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, trackio, mlflow …; repeat as needed.")
    ] = None,
    description: str = "",
    dataset: Annotated[str, typer.Option(help="Name of the data set, for the card.")] = "",
    source: Annotated[str, typer.Option(help="Where the data comes from, for the card.")] = "",
    licence: Annotated[str | None, typer.Option(help="Licence of the data, for the card.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Remove what such a run left, and begin anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train an adapter on a frozen backbone and write it as a bundle."""
    options = {key: value for key, value in locals().items() if key not in NO_SETTINGS}
    quiet_transformers()
    try:
        given = {"task": task, "--train": train_file, "--dev": dev_file}
        common = _common(options, columns or [])
        settings = _of_sets(common, sets) if sets is not None else [_single(common, given, name or output.name)]
        reports = _run(settings, _on_leftovers(resume, restart))
    except Fault as fault:
        refuse(fault)
    if as_json:
        shown = [{"output": str(one.output), **asdict(reports[one.name])} for one in settings]
        typer.echo(json.dumps(shown[0] if sets is None else shown))
        return
    for one in settings:
        report = reports[one.name]
        print_scores(f"{one.name} ({method})", report.scores, report.without_prefix, report.majority)


def _run(settings: Sequence[TrainSettings], on_leftovers: str | None) -> dict[str, Report]:
    from prefixrack_adapters.training.multitask import run_multitask  # torch loads only when training
    from prefixrack_adapters.training.run import run_training

    if settings[0].method == "multitask":
        return run_multitask(settings, on_leftovers)
    return {settings[0].name: run_training(settings[0], on_leftovers)}


def _on_leftovers(resume: bool, restart: bool) -> str | None:
    if resume and restart:
        raise InvalidRequest("--resume and --restart exclude each other: give one of them")
    return "resume" if resume else "restart" if restart else None


def _common(options: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Settings that all data sets of a run share."""
    layers, labels = options["prefix_layers"], options["labels"]
    return options | {
        "columns": column_mapping(columns),
        "command": portable_command(sys.argv[1:], os.environ),
        "backbone": resolve_backbone(options["backbone"]),
        "prefix_layers": None if layers is None else layers.split(","),
        "labels": None if labels is None else [label.strip() for label in labels.split(",")],
        "trackers": options["trackers"] or [],
    }


def _single(common: Mapping[str, Any], given: Mapping[str, str | None], name: str) -> TrainSettings:
    missing = [option for option, value in given.items() if value is None]
    if missing or common["method"] == "multitask":
        raise InvalidRequest(
            f"{', '.join(missing) or '--sets'} is missing: --task, --train and --dev name one data set, --sets (with "
            "--method multitask) several"
        )
    return _settings({**common, "name": name, "train_file": given["--train"], "dev_file": given["--dev"]})


def _of_sets(common: Mapping[str, Any], sets: Path) -> list[TrainSettings]:
    from prefixrack_adapters.training.multitask import read_sets

    if common["method"] != "multitask":
        raise InvalidRequest(f"--sets is for --method multitask; seen method {common['method']!r}")
    return [
        _settings({**common, **fields, "name": name, "output": common["output"] / name})
        for name, fields in read_sets(sets).items()
    ]


def _settings(options: Mapping[str, Any]) -> TrainSettings:
    from prefixrack_adapters.training.settings import TrainSettings

    try:
        return TrainSettings.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"option {where}: {first['msg']}; seen {first['input']!r}"[:400]) from None


def portable_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command for the card: paths of this machine mean nothing elsewhere, so files under $PREFIXRACK_DATA are shown
    below that variable and other absolute paths by their last name."""
    folder = environment.get("PREFIXRACK_DATA", "").rstrip("/")
    return " ".join(["prefixrack", *(_portable(argument, folder) for argument in arguments)])


def _portable(argument: str, data_folder: str) -> str:
    if data_folder and argument.startswith(f"{data_folder}/"):
        return "$PREFIXRACK_DATA" + shlex.quote(argument.removeprefix(data_folder))
    return shlex.quote(Path(argument).name if argument.startswith("/") else argument)
