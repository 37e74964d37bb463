"""The alerts, as data: what each looks at, for how long, and what it says. docs/operations.md says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

RUNBOOK: Final = "docs/operations.md"
PREDICT: Final = 'route=~"/v1/.*predict"'


@dataclass(frozen=True)
class Alert:
    """`for_` is how long `expr` must hold. Page for critical ones; warnings can wait for the morning."""

    name: str
    severity: Literal["critical", "warning"]
    expr: str
    for_: str
    summary: str

    def rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.for_,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": f"{RUNBOOK}#{self.name.lower()}"},
        }


def share_of(statuses: str) -> str:
    """Of the predictions of five minutes, those answered with these statuses; nothing where there were none."""
    predictions = f'sum by (job) (rate(prefixrack_http_requests_total{{{PREDICT}, status=~"{statuses}"}}[5m]))'
    return f"{predictions} / sum by (job) (rate(prefixrack_http_requests_total{{{PREDICT}}}[5m]))"


ALERTS: Final = (
    Alert(
        "PrefixrackDown",
        "critical",
        'up{job="prefixrack"} == 0',
        "2m",
        "{{ $labels.instance }} cannot be scraped",
    ),
    Alert(
        "PrefixrackAbsent",
        "critical",
        "absent(prefixrack_engine_ready)",
        "5m",
        "No server at all tells its metrics",
    ),
    Alert(
        "PrefixrackNotReady",
        "critical",
        "prefixrack_engine_ready == 0",
        "5m",
        "The engine of {{ $labels.instance }} takes no work",
    ),
    Alert(
        "PrefixrackStuck",
        "critical",
        "prefixrack_queue_rows > 0 and on (job, instance) rate(prefixrack_packs_total[2m]) == 0",
        "2m",
        "{{ $value }} rows wait at {{ $labels.instance }} and nothing is computed",
    ),
    Alert(
        "PrefixrackInternalErrors",
        "critical",
        f"{share_of('500|502')} > 0.001",
        "5m",
        "{{ $value | humanizePercentage }} of the predictions fail inside the server",
    ),
    Alert(
        "PrefixrackOverloaded",
        "warning",
        f"{share_of('503')} > 0.01",
        "5m",
        "{{ $value | humanizePercentage }} of the predictions are refused: the server is full",
    ),
    Alert(
        "PrefixrackDeadlines",
        "warning",
        f"{share_of('504')} > 0.01",
        "5m",
        "{{ $value | humanizePercentage }} of the predictions run out of time",
    ),
    Alert(
        "PrefixrackQueueSlow",
        "warning",
        "histogram_quantile(0.99, sum by (job, instance, le) (rate(prefixrack_queue_seconds_bucket[5m]))) > 1",
        "10m",
        "One row in a hundred waits {{ $value | humanizeDuration }} for its pack at {{ $labels.instance }}",
    ),
    Alert(
        "PrefixrackThrashing",
        "warning",
        "rate(prefixrack_evictions_total[10m]) > 1 "
        "and rate(prefixrack_evictions_total[10m]) > 0.1 * rate(prefixrack_rows_total[10m])",
        "15m",
        "{{ $labels.instance }} evicts {{ $value | humanize }} adapters a second: more are in use than fit the device",
    ),
    Alert(
        "PrefixrackLoadsFail",
        "warning",
        "increase(prefixrack_failed_loads_total[10m]) > 0",
        "1m",
        "Adapters that are registered cannot be loaded at {{ $labels.instance }}",
    ),
    Alert(
        "PrefixrackAdapterErrors",
        "warning",
        'sum by (job, tenant, adapter, version) (rate(prefixrack_adapter_requests_total{outcome="server_error"}[10m]))'
        " > 0.05 * sum by (job, tenant, adapter, version) (rate(prefixrack_adapter_requests_total[10m]))",
        "10m",
        "Adapter {{ $labels.tenant }}:{{ $labels.adapter }}@{{ $labels.version }} fails where the server is to blame",
    ),
    Alert(
        "PrefixrackDiskFull",
        "critical",
        'sum by (job, instance) (increase(prefixrack_http_requests_total{status="507"}[10m])) > 0',
        "0m",
        "{{ $labels.instance }} refuses uploads: its disk is full",
    ),
    Alert(
        "PrefixrackRefusedKeys",
        "warning",
        'sum by (job) (rate(prefixrack_http_requests_total{status="401"}[10m])) > 1',
        "10m",
        "{{ $value | humanize }} requests a second come without a key that holds",
    ),
)


def rules() -> dict[str, Any]:
    """The rule file, as Prometheus reads it."""
    return {"groups": [{"name": "prefixrack", "rules": [alert.rule() for alert in ALERTS]}]}
