"""`prefixrack tenants`: who may have adapters and keys, what they used, who changed what. Knows no HTTP."""

from __future__ import annotations

import csv as csvlib
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Annotated, Any

import typer
from rich.text import Text

from prefixrack.cli.printing import as_plain, minute_of, printable, show_facts, show_json, show_table, size_of
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.types import AuditLine, Quotas, TenantInfo, UsageLine

UNLIMITED = "none"

Name = Annotated[str, typer.Argument(help="The tenant.")]
Weight = Annotated[float | None, typer.Option(help="Share of a busy server against that of others. [default: 1]")]
Quota = Annotated[
    list[str] | None,
    typer.Option(
        help=f"NAME=NUMBER, or NAME={UNLIMITED} for no limit, of {', '.join(Quotas.model_fields)}; repeat it for each."
    ),
]
Adapter = Annotated[
    list[str] | None, typer.Option(help="Pattern of adapter names that its keys may use, as 'team-a.*'; repeat it.")
]
Day = Annotated[str | None, typer.Option(help="A day in UTC, as 2030-01-31; included.")]


def create(
    context: typer.Context,
    name: Name,
    weight: Weight = None,
    quota: Quota = None,
    adapter: Adapter = None,
    json: JsonOption = False,
) -> None:
    """Make a tenant. Its first key: `prefixrack keys create --tenant NAME`."""
    with open_client(context) as client:
        _show(client.create_tenant(name, weight=weight, quotas=_quotas(quota), adapters=adapter), json)


def list_tenants(context: typer.Context, json: JsonOption = False) -> None:
    """List all tenants."""
    with open_client(context) as client:
        tenants = list(client.list_tenants())
    if json:
        show_json({"data": tenants})
        return
    rows = [
        (
            tenant.name,
            tenant.weight,
            shown_quotas(tenant.quotas),
            ", ".join(tenant.adapters),
            minute_of(tenant.disabled_at or ""),
        )
        for tenant in tenants
    ]
    show_table(("name", "weight", "quotas", "adapters", "disabled"), rows, empty="no tenants", whole=("name",))


def show(context: typer.Context, name: Name, json: JsonOption = False) -> None:
    """Show a tenant, and what it has stored."""
    with open_client(context) as client:
        _show(client.get_tenant(name), json)


def update(
    context: typer.Context,
    name: Name,
    weight: Weight = None,
    quota: Quota = None,
    adapter: Adapter = None,
    every_adapter: Annotated[bool, typer.Option(help="Lift all patterns of names.")] = False,
    json: JsonOption = False,
) -> None:
    """Change what is given, leave the rest."""
    if adapter and every_adapter:
        raise typer.BadParameter("--adapter and --every-adapter exclude each other: give one of them")
    patterns = [] if every_adapter else adapter
    with open_client(context) as client:
        _show(client.update_tenant(name, weight=weight, quotas=_quotas(quota), adapters=patterns), json)


def disable(context: typer.Context, name: Name, json: JsonOption = False) -> None:
    """Refuse all keys of a tenant, at once. Nothing that it has is removed."""
    with open_client(context) as client:
        _show(client.update_tenant(name, disabled=True), json)


def enable(context: typer.Context, name: Name, json: JsonOption = False) -> None:
    """Admit the keys of a tenant again."""
    with open_client(context) as client:
        _show(client.update_tenant(name, disabled=False), json)


def usage(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The tenant; your key's own by default.")] = None,
    since: Day = None,
    until: Day = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a tenant had computed, by day and adapter."""
    if csv and json:
        raise typer.BadParameter("--csv and --json exclude each other: give one of them")
    with open_client(context) as client:
        lines = client.list_usage(tenant=name, since=since, until=until)
        if csv:
            _show_csv(lines)
        elif json:
            show_json({"data": list(lines)})
        else:
            rows = [(line.day, line.adapter, line.requests, line.rows, line.tokens) for line in lines]
            show_table(("day", "adapter", "requests", "rows", "tokens"), rows, empty="nothing was computed")


def audit(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The tenant; your key's own by default.")] = None,
    action: Annotated[str | None, typer.Option(help="One action, or how several begin, as 'key.'.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Only what was done to this adapter.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 50,
    json: JsonOption = False,
) -> None:
    """Show who changed what of a tenant's things, newest first."""
    with open_client(context) as client:
        log = client.list_audit(tenant=name, action=action, adapter=adapter, page_size=min(limit, 1000))
        lines = list(islice(log, limit))
    if json:
        show_json({"data": lines})
        return
    rows = [(line.at[:19].replace("T", " "), _what(line)) for line in lines]
    show_table(("at", "what"), rows, empty="nothing was changed", whole=("at",))


def tenants_app() -> typer.Typer:
    app = typer.Typer(help="Make, change and watch tenants.", no_args_is_help=True, pretty_exceptions_enable=False)
    for command in (create, show, update, disable, enable, usage, audit):
        app.command(command.__name__)(command)
    app.command("list")(list_tenants)
    return app


def _quotas(options: list[str] | None) -> dict[str, int | None] | None:
    """Raises BadParameter for what is no NAME=NUMBER."""
    if not options:
        return None
    return dict(_quota(option) for option in options)


def _quota(option: str) -> tuple[str, int | None]:
    name, _, value = option.partition("=")
    if name not in Quotas.model_fields or not (value == UNLIMITED or (value.isascii() and value.isdigit())):
        raise typer.BadParameter(
            f"--quota {option!r}: give NAME=NUMBER or NAME={UNLIMITED}, where NAME is one of "
            f"{', '.join(Quotas.model_fields)}"
        )
    return name, None if value == UNLIMITED else int(value)


def _show(tenant: TenantInfo, json: bool) -> None:
    if json:
        show_json(tenant)
        return
    facts: list[tuple[str, Any]] = [
        ("tenant", tenant.name),
        ("weight", tenant.weight),
        ("quotas", shown_quotas(tenant.quotas)),
        ("adapters", ", ".join(tenant.adapters) or "all names"),
        ("created", tenant.created_at),
        ("disabled", tenant.disabled_at),
    ]
    if tenant.stored is not None:
        facts.append(("stored", f"{tenant.stored.num_adapters} adapters, {size_of(tenant.stored.num_bytes)}"))
    show_facts(facts)


def _what(line: AuditLine) -> Text:
    """Who did what to what; below it, what was changed."""
    change = _change(line.detail)
    by = line.key_id if line.key_name is None else f"{line.key_name} ({line.key_id})"
    head = Text.assemble(printable(line.action, "bold"), printable(f" {line.target} by {by}"))
    return Text("\n").join([head, printable(change)]) if change else head


def _change(detail: dict[str, Any]) -> str:
    """What a line of the audit log says was changed: what is other than before. `--json` has all of it."""
    if "after" not in detail:
        return _shown(detail) if detail else ""
    before, after = detail.get("before"), detail["after"]
    if not isinstance(after, dict):
        return f"{_shown(before)} → {_shown(after)}"
    old = before if isinstance(before, dict) else {}
    names = [name for name in {**old, **after} if _is_said(old.get(name), after.get(name))]
    return ", ".join(
        f"{name} {_shown(old[name])} → {_shown(after.get(name))}" if name in old else f"{name} {_shown(after[name])}"
        for name in names
    )


def _is_said(before: Any, after: Any) -> bool:
    """Limits that there are not, of something new, say nothing."""
    is_nothing = after in (None, [], {}) or (isinstance(after, dict) and not any(map(bool, after.values())))
    return before != after and not (before is None and is_nothing)


def _shown(value: Any) -> str:
    """Digests say nothing to people that the version beside them does not."""
    if value in (None, [], {}):
        return "nothing"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {_shown(inner)}" for name, inner in value.items() if name != "digest")
    return str(value)


def shown_quotas(quotas: Quotas) -> str:
    return ", ".join(f"{name}={value}" for name, value in quotas if value is not None) or UNLIMITED


def _show_csv(lines: Iterable[UsageLine]) -> None:
    writer = csvlib.writer(sys.stdout)
    writer.writerow(UsageLine.model_fields)
    for line in lines:
        writer.writerow(as_plain(line).values())
