"""`prefixrack list`, `show` and `delete`: what the server holds. Knows arguments and tables."""

from __future__ import annotations

import json as jsonlib
from itertools import islice
from typing import Annotated, Any

import typer

from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.printing import show_facts, show_json, show_line, show_table, size_of
from prefixrack.cli.session import JsonOption, TenantOption, open_client
from prefixrack.types import AdapterDetail, AdapterSummary, VersionInfo

PAGE_SIZE = 100
ADAPTER_COLUMNS = ("name", "task", "version", "labels", "aliases", "created")
VERSION_COLUMNS = ("version", "aliases", "size", "created", "digest", "claims")


def list_held(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of this adapter the versions, newest first.")] = None,
    search: Annotated[str | None, typer.Option(help="Only names that contain this.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many.")] = None,
    tenant: TenantOption = None,
    json: JsonOption = False,
) -> None:
    """List the adapters that your key may use, or the versions of one."""
    if name is not None and search is not None:
        raise typer.BadParameter("--search looks through the names of adapters: give it or a name")
    if name is not None and tenant is not None:
        raise typer.BadParameter(f"--tenant lists a tenant's adapters: for the versions of one give {tenant}:{name}")
    page_size = limit if limit is not None and limit < PAGE_SIZE else None
    found: list[AdapterSummary] | list[VersionInfo]
    with open_client(context) as client:
        if name is None:
            found = list(islice(client.list_adapters(search=search, tenant=tenant, page_size=page_size), limit))
        else:
            found = list(islice(client.list_versions(name, page_size=page_size), limit))
    if json:
        show_json({"data": found})
        return
    columns = ADAPTER_COLUMNS if name is None else VERSION_COLUMNS
    empty = "no adapters yet: `prefixrack push FOLDER` uploads one"
    show_table(columns, map(_row, found), empty=empty, whole=("name", "version", "task", "digest"))


def show(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="name, name@alias or name@7", autocompletion=adapter_refs)],
    json: JsonOption = False,
) -> None:
    """Show what an adapter does and how to ask it."""
    with open_client(context) as client:
        detail = client.get_adapter(ref)
    if json:
        show_json(detail)
    else:
        _show_detail(detail)


def delete(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(help="name for all versions, name@7 for one", autocompletion=adapter_refs)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete an adapter, or one version of it. Requests in flight finish."""
    name, at, number = ref.partition("@")
    if at and not number.isdecimal():
        raise typer.BadParameter(f"{ref!r}: give a name, or a name and a version number as in {name}@7")
    if not yes:
        typer.confirm(f"Delete {ref if at else f'{name} with all its versions'}?", abort=True, err=True)
    with open_client(context) as client:
        if at:
            client.delete_version(name, int(number))
        else:
            client.delete_adapter(name)
    if json:
        show_json({"deleted": ref})
    else:
        show_line(f"{ref} is deleted", "bold green")


def _row(entry: AdapterSummary | VersionInfo) -> tuple[Any, ...]:
    day = entry.created_at[:10]  # with minutes, lines would not fit into 80 columns
    if isinstance(entry, AdapterSummary):
        return entry.name, entry.task, entry.version, len(entry.labels) or "-", _aliases(entry.aliases), day
    claims = "\n".join(f"{one.get('dataset')} {one.get('name')} {one.get('value')}" for one in entry.metrics)
    return entry.version, "\n".join(entry.aliases), size_of(entry.size_bytes), day, entry.digest[:12], claims


def _claim(metric: dict[str, Any]) -> str:
    return f"{metric.get('name')} {metric.get('value')} on {metric.get('dataset')}"


def _show_detail(detail: AdapterDetail) -> None:
    show_facts(
        [
            ("adapter", f"{detail.name}@{detail.version}"),
            ("task", detail.task),
            ("labels", ", ".join(detail.labels)),
            ("aliases", _aliases(detail.aliases)),
            ("versions", detail.num_versions),
            ("input format", detail.input_format),
            ("example", jsonlib.dumps(detail.example, ensure_ascii=False)),
            ("max tokens", detail.max_tokens),
            ("prefix", f"{detail.prefix_kind}, {detail.prefix_len} vectors"),
            ("metrics", "\n".join(map(_claim, detail.metrics))),
            ("licence", detail.licence),
            ("digest", detail.digest),
            ("created", detail.created_at),
        ]
    )


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} → {version}" for alias, version in sorted(aliases.items()))
