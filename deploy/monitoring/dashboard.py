"""The dashboard, as data: rows of panels, laid out from left to right. Grafana reads what `dashboard()` gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 24  # of Grafana's grid
PANEL_HEIGHT: Final = 8
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
HERE: Final = 'job=~"$job", instance=~"$instance"'
WINDOW: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    queries: tuple[Query, ...]
    text: str = ""
    width: int = 8

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        return {
            "id": number,
            "title": self.title,
            "description": self.text,
            "type": "timeseries",
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": PANEL_HEIGHT},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
                for index, query in enumerate(self.queries)
            ],
        }


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Per second, over the instances that are looked at."""
    chosen = f"{metric}{{{HERE}{', ' if labels else ''}{labels}}}"
    return f"sum{f' by ({by})' if by else ''} (rate({chosen}{WINDOW}))"


def quantile(share: float, histogram: str, by: str = "", labels: str = "") -> str:
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'{by}, le' if by else 'le', labels)})"


def quantiles(histogram: str, labels: str = "") -> tuple[Query, ...]:
    shares = {0.5: "median", 0.95: "95 %", 0.99: "99 %"}
    return tuple(Query(quantile(share, histogram, labels=labels), name) for share, name in shares.items())


def mean(histogram: str) -> str:
    return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}"


def gauge(metric: str, by: str = "instance") -> str:
    return f"sum by ({by}) ({metric}{{{HERE}}})"


def busiest(expr: str) -> str:
    return f"topk(10, {expr})"


PREDICT: Final = 'route=~"/v1/.*predict"'
ADAPTER: Final = "tenant, adapter, version"
ADAPTER_NAME: Final = "{{tenant}}:{{adapter}}@{{version}}"
ROLLOUT_NAME: Final = ADAPTER_NAME + " ({{alias}}, {{role}})"

ROWS: Final = (
    Row(
        "Requests",
        (
            Panel(
                "Predictions by status",
                "reqps",
                (Query(rate("prefixrack_http_requests_total", "status", PREDICT), "{{status}}"),),
            ),
            Panel("Latency of predictions", "s", quantiles("prefixrack_http_request_seconds", PREDICT)),
            Panel(
                "Everything else by route",
                "reqps",
                (Query(rate("prefixrack_http_requests_total", "route", 'route!~"/v1/.*predict"'), "{{route}}"),),
            ),
        ),
    ),
    Row(
        "Work",
        (
            Panel("Tokens computed", "short", (Query(rate("prefixrack_tokens_total", "instance"), "{{instance}}"),)),
            Panel("Rows computed", "short", (Query(rate("prefixrack_rows_total", "instance"), "{{instance}}"),)),
            Panel(
                "Accepted and not answered",
                "short",
                (
                    Query(gauge("prefixrack_inflight_rows"), "{{instance}}: rows"),
                    Query(gauge("prefixrack_inflight_tokens"), "{{instance}}: tokens"),
                ),
            ),
        ),
    ),
    Row(
        "Queue and packs",
        (
            Panel(
                "Queue",
                "short",
                (
                    Query(gauge("prefixrack_queue_rows"), "{{instance}}: rows"),
                    Query(gauge("prefixrack_queue_tokens"), "{{instance}}: tokens"),
                ),
            ),
            Panel("Time in the queue", "s", quantiles("prefixrack_queue_seconds")),
            Panel(
                "Rows past their deadline",
                "rps",
                (
                    Query(rate("prefixrack_expired_rows_total"), "in the queue"),
                    Query(rate("prefixrack_late_rows_total"), "on the device"),
                ),
            ),
            Panel("Time to compute a pack", "s", quantiles("prefixrack_pack_seconds")),
            Panel(
                "Rows in a pack",
                "short",
                (Query(mean("prefixrack_pack_rows"), "mean"), *quantiles("prefixrack_pack_rows")),
                width=6,
            ),
            Panel(
                "Tokens in a pack",
                "short",
                (Query(mean("prefixrack_pack_tokens"), "mean"), *quantiles("prefixrack_pack_tokens")),
                "At engine.max_pack_tokens all the time: the server is at its limit.",
                width=6,
            ),
            Panel("Packs", "short", (Query(rate("prefixrack_packs_total", "instance"), "{{instance}}"),), width=6),
            Panel("Engine takes work", "short", (Query(gauge("prefixrack_engine_ready"), "{{instance}}"),), width=6),
        ),
    ),
    Row(
        "Adapters, the ten busiest",
        (
            Panel(
                "Tokens by adapter",
                "short",
                (Query(busiest(rate("prefixrack_adapter_tokens_total", ADAPTER)), ADAPTER_NAME),),
                "_other are all those that have no label of their own (metrics.max_adapters).",
            ),
            Panel(
                "Latency, 95 %",
                "s",
                (Query(busiest(quantile(0.95, "prefixrack_adapter_seconds", ADAPTER)), ADAPTER_NAME),),
                "From when the body was there. The slowest ten.",
            ),
            Panel(
                "Failed requests",
                "reqps",
                (
                    Query(
                        busiest(
                            rate("prefixrack_adapter_requests_total", f"{ADAPTER}, outcome", 'outcome!="ok"') + " > 0"
                        ),
                        ADAPTER_NAME + ": {{outcome}}",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Tenants, the ten busiest",
        (
            Panel(
                "Tokens by tenant",
                "short",
                (Query(busiest(rate("prefixrack_tenant_tokens_total", "tenant")), "{{tenant}}"),),
            ),
            Panel(
                "Rows by tenant",
                "short",
                (Query(busiest(rate("prefixrack_tenant_rows_total", "tenant")), "{{tenant}}"),),
            ),
            Panel(
                "Requests by tenant and outcome",
                "reqps",
                (
                    Query(
                        busiest(rate("prefixrack_tenant_requests_total", "tenant, outcome")), "{{tenant}}: {{outcome}}"
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Canaries and shadows",
        (
            Panel(
                "Requests by version and outcome",
                "reqps",
                (
                    Query(
                        busiest(rate("prefixrack_rollout_requests_total", f"{ADAPTER}, alias, role, outcome")),
                        ROLLOUT_NAME + ": {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Latency, 95 %",
                "s",
                (
                    Query(
                        busiest(quantile(0.95, "prefixrack_rollout_seconds", f"{ADAPTER}, alias, role")), ROLLOUT_NAME
                    ),
                ),
            ),
            Panel(
                "What shadows decide, beside what was answered",
                "short",
                (
                    Query(
                        busiest(rate("prefixrack_shadow_outputs_total", f"{ADAPTER}, alias, agreement")),
                        ADAPTER_NAME + " ({{alias}}): {{agreement}}",
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Adapters in memory",
        (
            Panel(
                "On the device",
                "bytes",
                (
                    Query(gauge("prefixrack_resident_bytes"), "{{instance}}"),
                    Query(gauge("prefixrack_resident_budget_bytes"), "{{instance}}: budget"),
                ),
                width=6,
            ),
            Panel(
                "In host memory",
                "bytes",
                (
                    Query(gauge("prefixrack_host_bytes"), "{{instance}}"),
                    Query(gauge("prefixrack_host_budget_bytes"), "{{instance}}: budget"),
                ),
                width=6,
            ),
            Panel(
                "Adapters on the device",
                "short",
                (Query(gauge("prefixrack_resident_adapters"), "{{instance}}"),),
                width=6,
            ),
            Panel(
                "Loads and evictions",
                "short",
                (
                    Query(rate("prefixrack_loads_total"), "loads"),
                    Query(rate("prefixrack_host_hits_total"), "of these without reading a file"),
                    Query(rate("prefixrack_evictions_total"), "evictions"),
                    Query(rate("prefixrack_failed_loads_total"), "failed loads"),
                ),
                width=6,
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    return {
        "title": "Prefixrack",
        "uid": "prefixrack",
        "tags": ["prefixrack"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": [annotation("Ready or not", "changes(prefixrack_engine_ready[1m]) > 0")]},
        "templating": {"list": variables()},
        "panels": list(laid_out(ROWS)),
    }


def annotation(name: str, expr: str) -> dict[str, Any]:
    return {"name": name, "datasource": SOURCE, "enable": True, "expr": expr, "iconColor": "blue"}


def variables() -> list[dict[str, Any]]:
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [source, _choice("job", "label_values(prefixrack_build_info, job)"), _choice("instance", INSTANCES)]


INSTANCES: Final = 'label_values(prefixrack_build_info{job=~"$job"}, instance)'


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + PANEL_HEIGHT
            number += 1
            yield panel.json(number, x, y)
            x += panel.width
        y += PANEL_HEIGHT
