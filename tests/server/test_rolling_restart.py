"""Replicas restarted one after the other behind a balancer: no request fails."""

from __future__ import annotations

from pathlib import Path

from real_parts import program
from rolling_restart import RestartPlan, run_rolling_restart


def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    plan = RestartPlan(callers=4, drain_s=5.0)  # a probe may be late on a busy machine
    result = run_rolling_restart(plan, tmp_path, program("haproxy", "apt-get install haproxy"))
    assert result["answers"] == {"200": result["num_requests"]}
    assert result["num_requests"] > 0
