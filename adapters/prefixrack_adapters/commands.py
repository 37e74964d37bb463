"""The commands `train`, `evaluate` and `import`. Option parsing and printing only; the work is in `training`,
`evaluation` and `importers`.
"""

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
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from prefixrack.errors import Fault, InvalidRequest
from prefixrack.types import TaskName
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone

EXIT_REFUSED = 2


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
    _quiet_transformers()
    try:
        settings = _settings(options, columns or [], name or output.name)
        report = run_training(settings)
    except Fault as fault:
        _refuse(fault)
    if as_json:
        typer.echo(json.dumps({"output": str(output), **_plain(report)}))
    else:
        _print_scores(f"{settings.name} ({method})", report.scores, report.without_prefix, report.majority)


def _settings(options: dict[str, Any], columns: list[str], name: str) -> Any:
    from prefixrack_adapters.training.settings import TrainSettings

    mapping = _mapping(columns)
    command = portable_command(sys.argv[1:], os.environ)
    options["backbone"] = resolve_backbone(options["backbone"])
    try:
        return TrainSettings(name=name, columns=mapping, command=command, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"option {where}: {first['msg']}; seen {first['input']!r}") from None


def _mapping(columns: Sequence[str]) -> dict[str, str]:
    pairs = [column.partition("=") for column in columns]
    if any(not separator for _, separator, _ in pairs):
        raise InvalidRequest(f"--column takes canonical=yours, e.g. text=premise; seen {list(columns)}")
    return {left: right for left, _, right in pairs}


def portable_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """The command for the card: paths of this machine mean nothing elsewhere, so files under $PREFIXRACK_DATA are shown
    below that variable and other absolute paths by their last name."""
    folder = environment.get("PREFIXRACK_DATA", "").rstrip("/")
    return " ".join(["prefixrack", *(_portable(argument, folder) for argument in arguments)])


def _portable(argument: str, data_folder: str) -> str:
    if data_folder and argument.startswith(f"{data_folder}/"):
        return "$PREFIXRACK_DATA" + shlex.quote(argument.removeprefix(data_folder))
    return shlex.quote(Path(argument).name if argument.startswith("/") else argument)


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="jsonl or csv, optionally .gz.")],
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")] = EMBEDDED,
    columns: Annotated[list[str] | None, typer.Option("--column", help="canonical=yours; repeat as needed.")] = None,
    device: str = "auto",
    dtype: str = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a bundle on a data file, and the same head with the prefix removed."""
    _quiet_transformers()
    try:
        scores, bare, num_examples = _evaluate(bundle, data, backbone, columns or [], device, dtype)
    except Fault as fault:
        _refuse(fault)
    if as_json:
        typer.echo(json.dumps({"scores": scores, "without_prefix": bare, "num_examples": num_examples}))
    else:
        _print_scores(f"{bundle.name} on {data.name}", scores, bare, {})


def _evaluate(
    bundle: Path, data: Path, backbone_name: str, columns: list[str], device: str, dtype: str
) -> tuple[dict[str, float], dict[str, float], int]:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.evaluation import evaluate as score
    from prefixrack_adapters.training.data import read_examples

    mapping = _mapping(columns)
    backbone = Backbone.load(resolve_backbone(backbone_name), device, dtype)
    adapter = Adapter.load(bundle, backbone.device, backbone.dtype)
    examples = read_examples(data, adapter.manifest.task, mapping, adapter.manifest.input_format)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        with_prefix = progress.add_task("adapter", total=None)
        result = score(backbone, adapter, examples, advance=lambda rows: progress.advance(with_prefix, rows))
        without = progress.add_task("prefix removed", total=None)
        bare = score(backbone, adapter.without_prefix(), examples, advance=lambda rows: progress.advance(without, rows))
    return result.scores, bare.scores, result.num_examples


def import_bundle(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The tool: thudm, peft, adapterhub or sat.")],
    source: Annotated[Path, typer.Argument(help="What the tool wrote: a folder, or PT-Retrieval's file.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    backbone: Annotated[str, typer.Option(help="Folder, hub id, or 'embedded'.")],
    task: Annotated[str | None, typer.Option(help="Where the source does not tell.")] = None,
    labels: Annotated[str | None, typer.Option(help="Names in the order of training, with commas between.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter; from the source's path by default.")] = None,
    tower: Annotated[str | None, typer.Option(help="PT-Retrieval: question (default) or context.")] = None,
    max_len: Annotated[int | None, typer.Option(min=4, help="Tokens per row, special tokens included.")] = None,
    stride: Annotated[int | None, typer.Option(min=0, help="Tokens that neighbouring windows share.")] = None,
    no_answer: Annotated[
        bool | None, typer.Option("--no-answer/--always-answer", help="Questions may have no answer (SQuAD 2.0).")
    ] = None,
    input_format: Annotated[str | None, typer.Option(help="The data set's own input form, e.g. boolq.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Run the bundle once on an example.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Convert an adapter of another tool into a bundle."""
    from prefixrack_adapters.importers.run import run_import

    _quiet_transformers()
    try:
        report = run_import(
            kind,
            source,
            backbone,
            out,
            check=check,
            task=task,
            labels=_names(labels),
            name=name,
            tower=tower,
            max_len=max_len,
            stride=stride,
            no_answer=no_answer,
            input_format=input_format,
        )
    except Fault as fault:
        _refuse(fault)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _print_import(report)


def _names(labels: str | None) -> list[str] | None:
    """Labels split at commas; a comma inside a name is not provided for."""
    names = [label.strip() for label in (labels or "").split(",")]
    if labels is not None and not all(names):
        raise InvalidRequest(f"--labels is {labels!r}: give names with commas between, none of them empty")
    return names if labels is not None else None


def _print_import(report: Any) -> None:
    manifest = report.manifest
    table = Table("", "", title=f"{manifest.name} → {report.output}", show_header=False)
    rows = {
        "task": manifest.task,
        "labels": ", ".join(manifest.labels[:12]) or "none",
        "backbone": f"{manifest.backbone.model_id} ({manifest.backbone.fingerprint[:12]}…)",
        **report.read,
        "tokens per row": f"at most {manifest.tokenization.max_len}, longer: {manifest.tokenization.overlong}",
        "parameters": f"{report.num_parameters:,}",
        "digest": report.digest,
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console = Console()
    console.print(table)
    for note in report.assumed:
        console.print(f"[yellow]assumed[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    if report.checked_on is not None:
        console.print(f"[green]ran on[/green] {escape(json.dumps(report.checked_on))}", highlight=False, soft_wrap=True)


def _quiet_transformers() -> None:
    """Its own progress bars would run through ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _refuse(fault: Fault) -> None:
    shown = f"[red]{fault.code}[/red]: {escape(fault.detail)}"
    Console(stderr=True).print(shown, highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_REFUSED)


def _plain(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def _print_scores(title: str, scores: dict[str, float], bare: dict[str, float], majority: dict[str, float]) -> None:
    table = Table("score", "adapter", "prefix removed", "majority", title=title)
    for name, value in scores.items():
        others = (f"{column[name]:.4f}" if name in column else "–" for column in (bare, majority))
        table.add_row(name, f"{value:.4f}", *others)
    Console().print(table)
