"""`prefixrack import`. Knows options and tables; conversion is in `importers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from prefixrack.errors import Fault
from prefixrack_adapters.commands.shared import label_names, quiet_transformers, refuse


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Convert an adapter of another tool into a bundle."""
    from prefixrack_adapters.bundle import BUNDLE_FILES
    from prefixrack_adapters.earlier_files import refuse_to_replace
    from prefixrack_adapters.importers.run import run_import

    quiet_transformers()
    try:
        if not overwrite:
            refuse_to_replace(out, BUNDLE_FILES, "--out")
        report = run_import(
            kind,
            source,
            backbone,
            out,
            check=check,
            task=task,
            labels=label_names(labels),
            name=name,
            tower=tower,
            max_len=max_len,
            stride=stride,
            no_answer=no_answer,
            input_format=input_format,
        )
    except Fault as fault:
        refuse(fault)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        _print_import(report)


def _print_import(report: Any) -> None:
    manifest = report.manifest
    table = Table("", Column("", overflow="fold"), title=f"{manifest.name} → {report.output}", show_header=False)
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
