"""`prefixrack train`. Knows options; the run is in `training`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from prefixrack.errors import Fault, InvalidRequest
from prefixrack.types import TaskName
from prefixrack_adapters.commands.shared import column_mapping, print_scores, quiet_transformers, refuse
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone


def train(
    task: Annotated[TaskName, typer.Option(help="What the adapter does.")],
    train_file: Annotated[Path, typer.Option("--train", help="Training data: jsonl or csv, optionally .gz.")],
    dev_file: Annotated[Path, typer.Option("--dev", help="Dev data in the same form.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")] = EMBEDDED,
    name: Annotated[str | None, typer.Option(help="Name of the adapter; the output folder's by default.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="canonical=yours, e.g. text=premise; repeat as needed.")
    ] = None,
    method: Annotated[str, typer.Option(help="p-tuning-v2, or fine-tuning (a baseline: scored, no bundle).")] = (
        "p-tuning-v2"
    ),
    prefix_len: Annotated[int, typer.Option(help="Prefix vectors per layer.")] = 32,
    reparameterization: Annotated[str, typer.Option(help="none or mlp.")] = "none",
    head: Annotated[str, typer.Option(help="linear, or pooler (the backbone's tanh pooler + linear).")] = "linear",
    epochs: Annotated[int, typer.Option(help="At most; see --patience.")] = 10,
    patience: Annotated[int, typer.Option(help="Epochs without a better dev score before stopping.")] = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.0,
    prefix_dropout: float = 0.0,
    max_len: Annotated[int, typer.Option(help="Tokens per row, special tokens included.")] = 128,
    stride: Annotated[int, typer.Option(help="Tokens that neighbouring windows share.")] = 64,
    seed: int = 13,
    device: str = "auto",
    dtype: Annotated[str, typer.Option(help="Of the frozen backbone in training: auto, float32, bfloat16.")] = "auto",
    prefix_dtype: Annotated[str, typer.Option(help="Stored dtype: float16 or float32.")] = "float16",
    description: str = "",
    dataset: Annotated[str, typer.Option(help="Name of the data set, for the card.")] = "",
    source: Annotated[str, typer.Option(help="Where the data comes from, for the card.")] = "",
    licence: Annotated[str | None, typer.Option(help="Licence of the data, for the card.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train an adapter (P-Tuning v2) on a frozen backbone and write it as a bundle."""
    from prefixrack_adapters.training.run import run_training  # torch loads only when training

    taken_apart = ("as_json", "run_training", "columns", "name", "taken_apart")
    options = {key: value for key, value in locals().items() if key not in taken_apart}
    quiet_transformers()
    try:
        settings = _settings(options, columns or [], name or output.name)
        report = run_training(settings)
    except Fault as fault:
        refuse(fault)
    if as_json:
        typer.echo(json.dumps({"output": str(output), **_plain(report)}))
    else:
        print_scores(f"{settings.name} ({method})", report.scores, report.without_prefix, report.majority)


def _settings(options: dict[str, Any], columns: list[str], name: str) -> Any:
    from prefixrack_adapters.training.settings import TrainSettings

    mapping = column_mapping(columns)
    command = portable_command(sys.argv[1:], os.environ)
    options["backbone"] = resolve_backbone(options["backbone"])
    try:
        return TrainSettings(name=name, columns=mapping, command=command, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"option {where}: {first['msg']}; seen {first['input']!r}") from None


def portable_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command for the card: paths of this machine mean nothing elsewhere, so files under $PREFIXRACK_DATA are shown
    below that variable and other absolute paths by their last name."""
    folder = environment.get("PREFIXRACK_DATA", "").rstrip("/")
    return " ".join(["prefixrack", *(_portable(argument, folder) for argument in arguments)])


def _portable(argument: str, data_folder: str) -> str:
    if data_folder and argument.startswith(f"{data_folder}/"):
        return "$PREFIXRACK_DATA" + shlex.quote(argument.removeprefix(data_folder))
    return shlex.quote(Path(argument).name if argument.startswith("/") else argument)


def _plain(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}
