"""Load: what is asked, what is counted, and that an open loop waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from prefixrack.errors import APIConnectionError, RateLimitError
from prefixrack.load import Load, LoadReport, Shot, percentile
from prefixrack.types import AdapterRef, PredictResponse, Usage


def answer() -> PredictResponse:
    return PredictResponse(
        id="1",
        adapter=AdapterRef(name="a", version=1, digest="d"),
        task="text-classification",
        outputs=[],
        usage=Usage(tokens=5, rows=1, truncated=0),
        timings_ms={},
    )


async def test_an_open_loop_sends_on_while_nothing_is_answered() -> None:
    under_way, most, gate = 0, 0, asyncio.Event()

    async def ask(_adapter: str, _inputs: Any) -> PredictResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 10:
            gate.set()  # only a load that does not wait for answers comes so far
        await gate.wait()
        return answer()

    report = await Load(ask, [("a", "x")], duration_s=1.0, seed=1).open_loop(100)
    assert most >= 10
    assert report.num_requests > 50
    assert (report.num_failed, report.failures) == (0, {})
    assert report.mode == "open loop, 100 requests/s"


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The load's clock goes on by so many seconds, and only so."""
    now = 0.0

    def go_on(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("prefixrack.load.perf_counter", lambda: now)
    return go_on


async def test_a_closed_loop_has_so_many_callers_and_asks_all_in_turn(pass_time: Callable[[float], None]) -> None:
    under_way, most, asked = 0, 0, list[tuple[str, Any]]()

    async def ask(adapter: str, inputs: Any) -> PredictResponse:
        nonlocal under_way, most
        asked.append((adapter, inputs))
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        pass_time(0.01)
        under_way -= 1
        return answer()

    work = [("a", "x"), ("a", "y"), ("b", "z")]
    report = await Load(ask, work, duration_s=0.3).closed_loop(4)
    assert most == 4
    assert asked[:6] == work * 2
    assert report.num_requests == len(asked)


async def test_failures_are_counted_by_code_and_left_out_of_latencies(pass_time: Callable[[float], None]) -> None:
    errors = iter([RateLimitError("slow down", status=429, code="rate_limited"), APIConnectionError("gone"), None])

    async def ask(_adapter: str, _inputs: Any) -> PredictResponse:
        await asyncio.sleep(0)
        pass_time(0.01)
        error = next(errors, None)
        if error is not None:
            raise error
        return answer()

    report = await Load(ask, [("a", "x")], duration_s=0.2).closed_loop(1)
    assert report.failures == {"rate_limited": 1, "no_answer": 1}
    assert report.num_failed == 2


def test_the_report() -> None:
    shots = [Shot(number / 1000, 0.002, 7, None) for number in range(1, 101)] + [Shot(9.0, 0.0, 0, "x")]
    report = LoadReport.of("m", shots, 10.0)
    assert (report.p50_ms, report.p95_ms, report.p99_ms, report.max_ms) == (50.0, 95.0, 99.0, 100.0)
    assert (report.requests_per_s, report.tokens_per_s, report.late_p99_ms) == (10.0, 70.0, 2.0)
    assert LoadReport.of("m", [], 1.0).p50_ms is None
    assert percentile([3.0], 0.01) == pytest.approx(3.0)
