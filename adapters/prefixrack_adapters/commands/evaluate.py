"""`prefixrack evaluate`. Knows options and tables; scores come from `evaluation`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from prefixrack.errors import Fault
from prefixrack_adapters.commands.shared import column_mapping, print_scores, quiet_transformers, refuse
from prefixrack_adapters.embedded import EMBEDDED, resolve_backbone


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
    quiet_transformers()
    try:
        scores, bare, num_examples = _evaluate(bundle, data, backbone, columns or [], device, dtype)
    except Fault as fault:
        refuse(fault)
    if as_json:
        typer.echo(json.dumps({"scores": scores, "without_prefix": bare, "num_examples": num_examples}))
    else:
        print_scores(f"{bundle.name} on {data.name}", scores, bare, {})


def _evaluate(
    bundle: Path, data: Path, backbone_name: str, columns: list[str], device: str, dtype: str
) -> tuple[dict[str, float], dict[str, float], int]:
    from prefixrack_adapters.adapter import Adapter
    from prefixrack_adapters.backbone import Backbone
    from prefixrack_adapters.evaluation import evaluate as score
    from prefixrack_adapters.training.data import read_examples

    mapping = column_mapping(columns)
    backbone = Backbone.load(resolve_backbone(backbone_name), device, dtype)
    adapter = Adapter.load(bundle, backbone.device, backbone.dtype)
    examples = read_examples(data, adapter.manifest.task, mapping, adapter.manifest.input_format)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        with_prefix = progress.add_task("adapter", total=None)
        result = score(backbone, adapter, examples, advance=lambda rows: progress.advance(with_prefix, rows))
        without = progress.add_task("prefix removed", total=None)
        bare = score(backbone, adapter.without_prefix(), examples, advance=lambda rows: progress.advance(without, rows))
    return result.scores, bare.scores, result.num_examples
