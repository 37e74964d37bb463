"""Metrics for Prometheus, of the whole server whichever front end is asked. Labels are bounded.

What the engine, the noticeboard and the scoreboards know is read at the scrape. Requests by route are counted here, and
where there are several front ends, in files that prometheus_client adds up (its multiprocess mode).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.types import Scope

from prefixrack.version import installed_version
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server import traffic as cells
from prefixrack_server.config import ServerConfig
from prefixrack_server.distributions import PACK_ROWS, PACK_SECONDS, PACK_TOKENS, QUEUE_SECONDS, Distribution
from prefixrack_server.messages import Engine, EngineStats
from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.scoreboard import Score
from prefixrack_server.traffic import LATENCIES, OUTCOMES, Traffic

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# From a cached tiny pack to a bulk body; seconds.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})

# Name, help, field of EngineStats.
GAUGES: Final = (
    ("queue_rows", "Rows waiting for a pack", "num_queued_rows"),
    ("queue_tokens", "Tokens waiting for a pack", "num_queued_tokens"),
    ("resident_adapters", "Adapter versions on the device", "num_resident"),
    ("resident_bytes", "Bytes of adapters on the device", "resident_bytes"),
    ("resident_budget_bytes", "Bytes that adapters may take on the device", "budget_bytes"),
    ("host_bytes", "Bytes of adapters in host memory, ready to be copied to the device", "host_bytes"),
    ("host_budget_bytes", "Bytes that adapters may take in host memory", "host_budget_bytes"),
)
COUNTERS: Final = (
    ("packs", "Packs computed; rows and tokens by packs is the mean size of a pack", "num_packs"),
    ("rows", "Rows computed", "num_rows"),
    ("tokens", "Tokens computed", "num_tokens"),
    ("expired_rows", "Rows whose deadline passed in the queue; none is computed", "num_expired"),
    ("late_rows", "Rows whose deadline had passed when their pack began", "num_late"),
    ("loads", "Adapter versions loaded onto the device", "num_loads"),
    ("evictions", "Adapter versions evicted from the device", "num_evictions"),
    ("host_hits", "Loads that found the adapter in host memory and read no file", "num_host_hits"),
    ("failed_loads", "Loads of adapter versions that failed", "num_failed_loads"),
)
# Name, help, upper ends, field of EngineStats.
DISTRIBUTIONS: Final = (
    ("pack_rows", "Rows in a pack", PACK_ROWS, "pack_rows"),
    ("pack_tokens", "Tokens in a pack", PACK_TOKENS, "pack_tokens"),
    ("pack_seconds", "Time to compute a pack", PACK_SECONDS, "pack_seconds"),
    ("queue_seconds", "Time that a row waited for its pack", QUEUE_SECONDS, "queue_seconds"),
)
# All adapters, or tenants, without a label of their own. No name begins with an underscore.
OTHERS: Final = "_other"
ROLLOUT_LABELS: Final = ("tenant", "adapter", "alias", "version", "role")
NO_ROLLOUT: Final = (OTHERS, OTHERS, OTHERS, "", "")


class Metrics:
    """Lives as long as the process. With `shared_dir`, the library counts there for all front ends: it has to be in
    the environment as PROMETHEUS_MULTIPROC_DIR when the library is imported."""

    def __init__(
        self,
        engine: Engine,
        noticeboard: Noticeboard,
        traffic: Traffic,
        facts: Mapping[str, str],
        shared_dir: Path | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(engine, noticeboard))
        self._registry.register(TrafficCollector(traffic, facts))
        counters = self._registry if shared_dir is None else None
        if shared_dir is not None:
            MultiProcessCollector(self._registry, str(shared_dir))  # type: ignore[no-untyped-call]
        self._requests = Counter(
            "prefixrack_http_requests",
            "HTTP requests by route template, method and status",
            ("route", "method", "status"),
            registry=counters,
        )
        self._seconds = Histogram(
            "prefixrack_http_request_seconds",
            "Time to the end of the answer",
            ("route",),
            buckets=BUCKETS,
            registry=counters,
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_template(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        count, clock = self._children(route, method, status)
        count.inc()
        clock.observe(seconds)

    def _children(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        """Looked up by the library once for each of the few combinations: every request pays for it otherwise."""
        key = (route, method, status)
        if key not in self._known:
            self._known[key] = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
        return self._known[key]

    def render(self) -> bytes:
        return generate_latest(self._registry)


class EngineCollector(Collector):
    """Reads one snapshot of the engine per scrape; nothing is counted twice."""

    def __init__(self, engine: Engine, noticeboard: Noticeboard) -> None:
        self._engine = engine
        self._noticeboard = noticeboard

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering must not ask an engine that is not started yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("prefixrack_engine_ready", "1 where the engine takes work", float(stats.ready))
        yield GaugeMetricFamily("prefixrack_inflight_rows", "Rows accepted, unanswered", self._noticeboard.num_rows)
        yield GaugeMetricFamily("prefixrack_inflight_tokens", "Their tokens", self._noticeboard.num_tokens)
        yield from _families(stats)


def _families(stats: EngineStats) -> Iterator[Metric]:
    for name, text, field in GAUGES:
        yield GaugeMetricFamily(f"prefixrack_{name}", text, getattr(stats, field))
    for name, text, field in COUNTERS:
        yield CounterMetricFamily(f"prefixrack_{name}", text, getattr(stats, field))
    for name, text, bounds, field in DISTRIBUTIONS:
        yield _histogram(f"prefixrack_{name}", text, bounds, getattr(stats, field))


class TrafficCollector(Collector):
    """What the server is, and what each adapter version and tenant got."""

    def __init__(self, traffic: Traffic, facts: Mapping[str, str]) -> None:
        self._traffic = traffic
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("prefixrack_build", "What runs here", dict(self._facts))
        adapters = [(_adapter_labels(score), score.counts) for score in self._traffic.adapters.scores()]
        yield from _traffic_families("adapter", ("tenant", "adapter", "version"), adapters)
        yield _latencies(adapters)
        tenants = [(_tenant_labels(score), score.counts) for score in self._traffic.tenants.scores()]
        yield from _traffic_families("tenant", ("tenant",), tenants)
        yield from _rollout_families(
            [(score.key or NO_ROLLOUT, score.counts) for score in self._traffic.rollouts.scores()]
        )


Rows = Sequence[tuple[Sequence[str], Sequence[int]]]


def facts_of(config: ServerConfig, spec: BackboneSpec) -> dict[str, str]:
    return {
        "version": installed_version(),
        "backbone": spec.model_id,
        "fingerprint": spec.fingerprint,
        "device": config.backbone.device,
        "dtype": config.backbone.dtype,
    }


def _adapter_labels(score: Score) -> tuple[str, ...]:
    return score.key or (OTHERS, OTHERS, "")


def _tenant_labels(score: Score) -> tuple[str, ...]:
    return score.key or (OTHERS,)


def _traffic_families(of: str, labels: Sequence[str], rows: Rows) -> Iterator[Metric]:
    text = f"Predictions by {of} and outcome, lines of bulk bodies too"
    requests = CounterMetricFamily(f"prefixrack_{of}_requests", text, labels=[*labels, "outcome"])
    for values, counts in rows:
        for index, outcome in enumerate(OUTCOMES):
            requests.add_metric([*values, outcome], counts[index])
    yield requests
    for name, text, index in (("rows", "Rows answered", cells.ROWS), ("tokens", "Tokens answered", cells.TOKENS)):
        family = CounterMetricFamily(f"prefixrack_{of}_{name}", f"{text}, by {of}", labels=labels)
        for values, counts in rows:
            family.add_metric(values, counts[index])
        yield family


def _latencies(adapters: Rows) -> Metric:
    family = HistogramMetricFamily(
        "prefixrack_adapter_seconds",
        "Time to an answer once the body is there, by adapter; no lines of bulk bodies",
        labels=("tenant", "adapter", "version"),
    )
    for values, counts in adapters:
        buckets = _cumulative(LATENCIES, counts[cells.FIRST_LATENCY :])
        family.add_metric(values, buckets, counts[cells.MICROSECONDS] / 1e6)
    return family


def _rollout_families(rows: Rows) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "prefixrack_rollout_requests",
        "Requests for an alias with a canary or a shadow, and lines, by version and outcome",
        labels=[*ROLLOUT_LABELS, "outcome"],
    )
    seconds = HistogramMetricFamily(
        "prefixrack_rollout_seconds",
        "Time to an answer, by version; no lines of bulk bodies",
        labels=ROLLOUT_LABELS,
    )
    shadows = CounterMetricFamily(
        "prefixrack_shadow_outputs",
        "Outputs of a shadow beside those that were answered: same, different, failed, or skipped under load",
        labels=[*ROLLOUT_LABELS[:-1], "agreement"],
    )
    for values, counts in rows:
        for index, outcome in enumerate(OUTCOMES):
            requests.add_metric([*values, outcome], counts[index])
        buckets = _cumulative(LATENCIES, counts[cells.FIRST_ROLLOUT_LATENCY :])
        seconds.add_metric(values, buckets, counts[cells.ROLLOUT_MICROSECONDS] / 1e6)
        *of_shadow, role = values
        for index, agreement in enumerate(cells.AGREEMENTS if role in ("shadow", "") else ()):
            shadows.add_metric([*of_shadow, agreement], counts[cells.FIRST_AGREEMENT + index])
    yield from (requests, seconds, shadows)


def _histogram(name: str, text: str, bounds: Sequence[float], seen: Distribution) -> Metric:
    counts = seen.counts or (0,) * (len(bounds) + 1)
    return HistogramMetricFamily(name, text, buckets=_cumulative(bounds, counts), sum_value=seen.total)


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus wants its buckets: each holds those below it too."""
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))


def route_template(scope: Scope) -> str:
    """The template of the route that answered, never the path itself: paths are as many as callers like."""
    template = getattr(scope.get("route"), "path_format", None)
    return template if isinstance(template, str) else "none"
