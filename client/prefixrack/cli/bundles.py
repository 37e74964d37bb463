"""`prefixrack push` and `pull`: bundle folders to and from the server. Knows arguments and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from prefixrack import bundles
from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.printing import error_console, show_facts, show_json, show_line
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.requests import name_of


def push(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="The bundle's folder; or a URI that the server fetches it from.")],
    name: Annotated[str | None, typer.Argument(help="The adapter's name; by default the manifest's.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="With a URI of a PEFT adapter: names in the order of training, commas between.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Upload a bundle as a new version, or have the server fetch it: hf://owner/name, s3://bucket/path, file:///folder."""
    if "://" in bundle:
        if name is None:
            raise typer.BadParameter(f"say the adapter's name too: prefixrack push {bundle} NAME")
        with open_client(context) as client:
            version = client.push_source(name, bundle, labels=labels.split(",") if labels else ())
    else:
        adapter = name if name is not None else bundles.name_in_manifest(Path(bundle))
        with open_client(context) as client, _progress(f"push {adapter}", is_shown=not json) as progress:
            version = client.push(adapter, bundle, progress=progress)
    if json:
        show_json(version)
        return
    show_line(f"{version.name}@{version.version} {'is new' if version.is_new else 'was there already'}", "bold green")
    show_facts([("digest", version.digest), ("bytes", version.size_bytes), ("aliases", ", ".join(version.aliases))])


def pull(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="name, name@alias or name@7", autocompletion=adapter_refs)],
    folder: Annotated[Path | None, typer.Argument(help="Where to; by default a folder of the adapter's name.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Download a version's bundle."""
    target = folder if folder is not None else Path(name_of(ref).rpartition(":")[2])
    with open_client(context) as client:
        detail = client.pull(ref, target, overwrite=overwrite)
    if json:
        show_json(
            {"name": detail.name, "version": detail.version, "digest": detail.digest, "folder": str(target.resolve())}
        )
    else:
        show_line(f"{detail.name}@{detail.version} is in {target}", "bold green")


@contextmanager
def _progress(title: str, *, is_shown: bool) -> Iterator[bundles.Progress | None]:
    terminal = error_console()
    if not is_shown or not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda num_sent, num_bytes: bar.update(task, completed=num_sent, total=num_bytes)
