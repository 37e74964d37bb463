"""What `prefixrack top` shows: the numbers of one interval, and how they are laid out. Pure: returns rich objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from prefixrack.cli.printing import printable, size_of
from prefixrack.exposition import Interval

SPARKS = "▁▂▃▄▅▆▇█"
BAR_CELLS = 16
SHARE_CELLS = 8
OTHERS = "_other"
FRAME_LINES = 17  # all but the rows of the table of adapters
SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class AdapterActivity:
    tenant: str
    adapter: str
    version: str
    requests_per_s: float
    errors_per_s: float
    tokens_per_s: float
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class Activity:
    """One interval of a server. Percentiles are of 0.5, 0.95 and 0.99; None where nothing happened."""

    url: str
    facts: Mapping[str, str]
    is_ready: bool
    queue_rows: float
    queue_tokens: float
    inflight_rows: float
    requests_per_s: float
    errors_per_s: float
    rows_per_s: float
    tokens_per_s: float
    packs_per_s: float
    rows_per_pack: float | None
    tokens_per_pack: float | None
    num_resident: float
    resident_bytes: float
    resident_budget_bytes: float
    loads_per_s: float
    evictions_per_s: float
    latency_s: tuple[float | None, ...]
    queue_s: tuple[float | None, ...]
    pack_s: tuple[float | None, ...]
    adapters: tuple[AdapterActivity, ...]

    @classmethod
    def of(cls, seen: Interval, url: str) -> Activity:
        now = seen.after
        return cls(
            url=url,
            facts=dict(now.labels("prefixrack_build_info")),
            is_ready=bool(now.sum("prefixrack_engine_ready")),
            queue_rows=now.sum("prefixrack_queue_rows"),
            queue_tokens=now.sum("prefixrack_queue_tokens"),
            inflight_rows=now.sum("prefixrack_inflight_rows"),
            requests_per_s=seen.rate("prefixrack_adapter_requests_total"),
            errors_per_s=_errors(seen),
            rows_per_s=seen.rate("prefixrack_rows_total"),
            tokens_per_s=seen.rate("prefixrack_tokens_total"),
            packs_per_s=seen.rate("prefixrack_packs_total"),
            rows_per_pack=seen.mean("prefixrack_pack_rows"),
            tokens_per_pack=seen.mean("prefixrack_pack_tokens"),
            num_resident=now.sum("prefixrack_resident_adapters"),
            resident_bytes=now.sum("prefixrack_resident_bytes"),
            resident_budget_bytes=now.sum("prefixrack_resident_budget_bytes"),
            loads_per_s=seen.rate("prefixrack_loads_total"),
            evictions_per_s=seen.rate("prefixrack_evictions_total"),
            latency_s=_percentiles(seen, "prefixrack_adapter_seconds"),
            queue_s=_percentiles(seen, "prefixrack_queue_seconds"),
            pack_s=_percentiles(seen, "prefixrack_pack_seconds"),
            adapters=_adapters(seen),
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(activity: Activity, history: Sequence[float], height: int = 40) -> RenderableType:
    """One frame. `history` is of tokens per second, the newest last; `height` bounds the table of adapters."""
    panels = [_load(activity, history), _packs(activity), _latencies(activity), _device(activity)]
    return Group(_title(activity), Columns(panels), _adapter_table(activity, max(3, height - FRAME_LINES)))


def _title(activity: Activity) -> Text:
    state = ("ready", "bold green") if activity.is_ready else ("not ready", "bold red")
    facts = [activity.facts.get(name, "") for name in ("backbone", "device", "dtype", "version")]
    what = "  ".join(fact for fact in facts if fact)
    return Text.assemble(
        ("prefixrack top  ", "bold"), printable(activity.url), "  ", state, "\n", printable(what, "dim")
    )


def _load(activity: Activity, history: Sequence[float]) -> Panel:
    facts = _facts(
        ("requests/s", _number(activity.requests_per_s)),
        ("errors/s", Text(_number(activity.errors_per_s), "red" if activity.errors_per_s else "")),
        ("tokens/s", Text(_number(activity.tokens_per_s), "bold cyan")),
        ("queue", f"{_number(activity.queue_rows)} rows  {_number(activity.queue_tokens)} tokens"),
        ("in flight", f"{_number(activity.inflight_rows)} rows"),
    )
    return Panel(Group(facts, Text(sparkline(history, 28), "cyan")), title="load", box=box.ROUNDED, width=34, height=9)


def _packs(activity: Activity) -> Panel:
    facts = _facts(
        ("packs/s", _number(activity.packs_per_s)),
        ("rows/s", _number(activity.rows_per_s)),
        ("rows/pack", _number(activity.rows_per_pack)),
        ("tokens/pack", _number(activity.tokens_per_pack)),
    )
    return Panel(facts, title="packs", box=box.ROUNDED, width=24, height=9)


def _latencies(activity: Activity) -> Panel:
    table = Table("", "p50", "p95", "p99", box=None, header_style="dim", pad_edge=False, expand=True)
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    rows = (("answer", activity.latency_s), ("queue", activity.queue_s), ("pack", activity.pack_s))
    for name, percentiles in rows:
        table.add_row(name, *(_seconds(value) for value in percentiles))
    return Panel(table, title="latency", box=box.ROUNDED, width=36, height=9)


def _device(activity: Activity) -> Panel:
    budget = activity.resident_budget_bytes
    share = activity.resident_bytes / budget if budget else 0.0
    facts = _facts(
        ("resident", f"{activity.num_resident:.0f} adapters"),
        ("memory", f"{size_of(activity.resident_bytes)} of {size_of(budget)}"),
        ("", Text.assemble((_bar(share), "green" if share < 0.9 else "yellow"), f" {share:.0%}")),
        ("loads/s", _number(activity.loads_per_s)),
        ("evictions/s", _number(activity.evictions_per_s)),
    )
    return Panel(facts, title="device", box=box.ROUNDED, width=38, height=9)


def _adapter_table(activity: Activity, most_rows: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in ("adapter", "tenant"):
        table.add_column(name, overflow="fold")
    for name in ("req/s", "err/s", "tok/s", "p50", "p95"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("share", no_wrap=True)
    total = sum(one.tokens_per_s for one in activity.adapters)
    for one in activity.adapters[:most_rows]:
        name = "all others" if one.adapter == OTHERS else f"{one.adapter}@{one.version}"
        tenant = "" if one.tenant == OTHERS else one.tenant
        share = one.tokens_per_s / total if total else 0.0
        table.add_row(
            printable(name),
            printable(tenant, "dim"),
            _number(one.requests_per_s),
            Text(_number(one.errors_per_s), "red" if one.errors_per_s else "dim"),
            _number(one.tokens_per_s),
            _seconds(one.p50_s),
            _seconds(one.p95_s),
            Text(f"{_bar(share, SHARE_CELLS)} {share:4.0%}", "cyan"),
        )
    hidden = len(activity.adapters) - most_rows
    table.caption = (
        f"and {hidden} more" if hidden > 0 else None if activity.adapters else "no requests in this interval"
    )
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars between 0 and the greatest of them."""
    shown = list(values)[-width:]
    highest = max(shown, default=0.0) or 1.0
    return "".join(SPARKS[round(value / highest * (len(SPARKS) - 1))] for value in shown)


def _adapters(seen: Interval) -> tuple[AdapterActivity, ...]:
    found = []
    for tenant, adapter, version in seen.after.label_values(
        "prefixrack_adapter_requests_total", "tenant", "adapter", "version"
    ):
        labels = {"tenant": tenant, "adapter": adapter, "version": version}
        rate = seen.rate("prefixrack_adapter_requests_total", **labels)
        if not rate:
            continue
        p50, p95, _ = _percentiles(seen, "prefixrack_adapter_seconds", **labels)
        tokens = seen.rate("prefixrack_adapter_tokens_total", **labels)
        found.append(AdapterActivity(tenant, adapter, version, rate, _errors(seen, **labels), tokens, p50, p95))
    return tuple(sorted(found, key=lambda one: (-one.tokens_per_s, one.tenant, one.adapter, one.version)))


def _errors(seen: Interval, **labels: str) -> float:
    name = "prefixrack_adapter_requests_total"
    return sum(seen.rate(name, outcome=outcome, **labels) for outcome in ("client_error", "server_error"))


def _percentiles(seen: Interval, name: str, **labels: str) -> tuple[float | None, ...]:
    return tuple(seen.percentile(name, share, **labels) for share in SHARES)


def _facts(*facts: tuple[str, str | Text]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in facts:
        table.add_row(name, value)
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.0f} ms" if value >= 0.01 else f"{1e3 * value:.1f} ms"


def _bar(share: float, num_cells: int = BAR_CELLS) -> str:
    full = round(max(0.0, min(1.0, share)) * num_cells)
    return "█" * full + "░" * (num_cells - full)
