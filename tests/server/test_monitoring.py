"""Alert rules and dashboard: generated, understood by Prometheus, and about metrics that the server really has."""

from __future__ import annotations

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from alert_rules import ALERTS, RUNBOOK
from dashboard import WIDTH, dashboard
from generate import HERE, files
from real_parts import program

ROOT = Path(__file__).parents[2]
PROMTOOL = "apt-get install prometheus"
METRIC = re.compile(r"\b(prefixrack_[a-z_]+)(?:\{([^}]*(?:\{\w+\}[^}]*)*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
OF_SCRAPES = {"job", "instance", "le"}


def promtool(*arguments: str, cwd: Path) -> None:
    run = subprocess.run(
        [program("promtool", PROMTOOL), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard()["panels"]
    return found


def queries() -> list[str]:
    """Every expression of the dashboard, Grafana's variables filled in."""
    own = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    own += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    return [
        expr.replace("$__rate_interval", "1m").replace("$job", "prefixrack").replace("$instance", ".*") for expr in own
    ]


EXPRESSIONS = [*(alert.expr for alert in ALERTS), *queries()]


@pytest.mark.parametrize("name", files())
def test_the_generated_files_are_those_in_the_repository(name: str) -> None:
    """`python deploy/monitoring/generate.py` writes them."""
    assert (HERE / name).read_text(encoding="utf-8") == files()[name]


def test_prometheus_accepts_the_rules_and_they_fire_where_they_should() -> None:
    promtool("check", "rules", "alerts.yml", cwd=HERE)
    promtool("test", "rules", "alerts.test.yml", cwd=HERE)


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load((HERE / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {alert.name for alert in ALERTS}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"query_{index}", "expr": expr} for index, expr in enumerate(queries())]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "queries.yml", cwd=tmp_path)


@pytest.fixture
async def samples(server: Any, bundles: Any, until: Any) -> dict[str, set[str]]:
    """The metrics of a server that has answered something, each with the labels it has."""
    await server.upload(bundles("intent"))
    alias = {"version": 1, "shadow": 1}
    assert (await server.client.put("/admin/v1/adapters/intent/aliases/production", json=alias)).is_success
    await server.predict("intent", "hello")
    rollouts = server.app.state.services.rollouts
    await until(lambda: not rollouts.num_shadows)
    text = (await server.client.get("/metrics")).text
    families: list[Metric] = list(text_string_to_metric_families(text))
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_alerts_and_dashboard_ask_for_metrics_that_exist(samples: dict[str, set[str]]) -> None:
    for expr in EXPRESSIONS:
        for name, labels in METRIC.findall(expr):
            assert name in samples, expr
            assert set(LABEL.findall(labels)) - OF_SCRAPES <= samples[name], expr


async def test_they_group_by_labels_that_exist(samples: dict[str, set[str]]) -> None:
    for expr in EXPRESSIONS:
        named = {label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expr) for label in labels.split(",")}
        there = set().union(*(samples[name] for name, _ in METRIC.findall(expr)), OF_SCRAPES)
        assert named <= there, expr


async def test_nothing_that_is_measured_goes_unseen(samples: dict[str, set[str]]) -> None:
    """But for what says what runs, which is no curve."""
    seen = {name for expr in EXPRESSIONS for name, _ in METRIC.findall(expr)}
    stems = {re.sub(r"_(bucket|sum|count|total|created|info)$", "", name) for name in seen}
    there = {re.sub(r"_(bucket|sum|count|total|created|info)$", "", name) for name in samples}
    assert there - stems == {"prefixrack_build", "prefixrack_adapter_rows"}


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places = [panel["gridPos"] for panel in panels()]
    assert all(place["x"] + place["w"] <= WIDTH for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_the_runbook_has_a_section_for_every_alert(alert: Any) -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / RUNBOOK).read_text(encoding="utf-8"), re.MULTILINE)
    assert alert.name in headings
