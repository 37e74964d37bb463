"""Which requests are sent again, and after what pause."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from prefixrack import APIConnectionError, APIStatusError, APITimeoutError, Client, RateLimitError
from prefixrack.responses import retry_after_s
from prefixrack.retries import RetryBudget, RetryPolicy


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 599])
def test_passing_troubles_are_retried_with_growing_pauses(script: Any, wire: Any, status: int) -> None:
    script.queue(wire.problem(status, "x"), wire.problem(status, "x"), wire.prediction(wire.label("pos")))
    assert script.client().predict("intent", "hi").outputs[0].label == "pos"
    assert script.pauses == [0.5, 1.0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 422, 428, 501, 504, 507])
def test_final_statuses_are_not_retried(script: Any, wire: Any, status: int) -> None:
    script.queue(wire.problem(status, "x"))
    with pytest.raises(APIStatusError) as caught:
        script.client().predict("intent", "hi")
    assert (caught.value.status, len(script.requests)) == (status, 1)


def test_the_third_failure_is_the_answer(script: Any, wire: Any) -> None:
    script.queue(*[wire.problem(429, "rate_limited", {"retry-after": "3"})] * 3)
    with pytest.raises(RateLimitError) as caught:
        script.client().predict("intent", "hi")
    assert caught.value.retry_after == 3
    assert script.pauses == [3, 3]


def test_connection_errors_and_timeouts_are_retried(script: Any, wire: Any) -> None:
    script.queue(httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow"), wire.prediction(wire.label("pos")))
    script.client().predict("intent", "hi")
    assert len(script.requests) == 3


def test_connection_errors_become_the_clients_own(script: Any) -> None:
    script.queue(httpx2.ConnectError("refused"), httpx2.ConnectTimeout("slow"))
    client = script.client(max_retries=0)
    with pytest.raises(APIConnectionError, match="http://rack/v1/adapters"):
        client.get_adapter("intent")
    with pytest.raises(APITimeoutError):
        client.get_adapter("intent")


def test_a_mistake_of_our_own_is_not_repeated(script: Any) -> None:
    script.queue(httpx2.LocalProtocolError("bad header"))
    with pytest.raises(APIConnectionError):
        script.client().get_adapter("intent")
    assert script.pauses == []


def test_retry_after_ms_comes_before_retry_after(script: Any, wire: Any) -> None:
    headers = {"retry-after-ms": "1500", "retry-after": "9"}
    script.queue(wire.problem(503, "x", headers), wire.prediction(wire.label("pos")))
    script.client().predict("intent", "hi")
    assert script.pauses == [1.5]


def test_a_long_wait_is_left_to_the_caller(script: Any, wire: Any) -> None:
    script.queue(wire.problem(429, "x", {"retry-after": "61"}))
    with pytest.raises(RateLimitError) as caught:
        script.client().predict("intent", "hi")
    assert caught.value.retry_after == 61
    assert script.pauses == []


def test_retry_after_may_be_a_date() -> None:
    past, future = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (-60, 3600))
    assert retry_after_s(httpx2.Response(503, headers={"retry-after": format_datetime(past, usegmt=True)})) == 0
    seconds = retry_after_s(httpx2.Response(503, headers={"retry-after": format_datetime(future, usegmt=True)}))
    assert seconds is not None
    assert 0 < seconds <= 3600


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", ""])
def test_a_meaningless_retry_after_is_ignored(value: str) -> None:
    assert retry_after_s(httpx2.Response(503, headers={"retry-after": value})) is None


def test_pauses_have_jitter_and_an_upper_end(script: Any, wire: Any) -> None:
    policy = RetryPolicy(draw=lambda: 1.0, clock=lambda: 0.0)
    script.queue(*[wire.problem(500, "x")] * 6, wire.prediction(wire.label("pos")))
    script.client(max_retries=6, retry_policy=policy).predict("intent", "hi")
    assert script.pauses == [0.375, 0.75, 1.5, 3.0, 6.0, 6.0]


def test_writes_are_sent_once(script: Any, wire: Any) -> None:
    client: Client = script.client()
    for change in (
        lambda: client.delete_version("intent", 1),
        lambda: client.create_key(["predict"]),
        lambda: client.set_alias("intent", "production", 1),
        lambda: client.set_residency("intent", 1, True),
    ):
        script.queue(wire.problem(503, "x"))
        with pytest.raises(APIStatusError):
            change()
    assert script.pauses == []


def test_writes_that_the_server_can_recognise_are_repeated(script: Any, wire: Any, bundle: Any) -> None:
    client = script.client()
    script.queue(wire.problem(503, "x"), wire.alias(2))
    client.set_alias("intent", "production", 2, if_match='"1"')
    script.queue(wire.problem(503, "x"), httpx2.Response(201, json=wire.version()))
    client.push("intent", bundle)
    keys = {request.headers["idempotency-key"] for request in script.requests[2:]}
    bodies = {request.content for request in script.requests[2:]}
    assert (len(keys), len(bodies)) == (1, 1)


def test_no_retry_past_the_deadline(script: Any, wire: Any) -> None:
    script.queue(wire.problem(503, "x"), wire.problem(503, "x"))
    with pytest.raises(APIStatusError):
        script.client(deadline_s=1.2).predict("intent", "hi")
    assert script.pauses == [0.5]


def test_the_deadline_shortens_timeouts_and_reaches_the_server(script: Any, wire: Any) -> None:
    script.queue(wire.problem(503, "x"), wire.prediction(wire.label("pos")))
    script.client(deadline_s=4.0).predict("intent", "hi")
    first, second = script.requests
    assert first.extensions["timeout"]["read"] == 4.0
    assert second.extensions["timeout"] == {"connect": 3.5, "read": 3.5, "write": 3.5, "pool": 3.5}
    assert second.headers["x-request-timeout-ms"] == "3500"


def test_default_timeouts(script: Any, wire: Any) -> None:
    script.queue(wire.prediction(wire.label("pos")))
    script.client().predict("intent", "hi")
    (request,) = script.requests
    assert request.extensions["timeout"] == {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0}
    assert "x-request-timeout-ms" not in request.headers


def test_retries_are_a_tenth_of_the_requests_in_the_long_run() -> None:
    budget = RetryBudget(share=0.1, reserve=2)
    assert [budget.spend(), budget.spend(), budget.spend()] == [True, True, False]
    num_retries = 0
    for _ in range(100):
        budget.earn()
        num_retries += budget.spend()
    assert num_retries == 10


def test_an_empty_budget_ends_the_tries(script: Any, wire: Any) -> None:
    policy = RetryPolicy(budget=RetryBudget(share=0.0, reserve=1.0), draw=lambda: 0.0, clock=lambda: 0.0)
    client = script.client(retry_policy=policy)
    script.queue(*[wire.problem(503, "x")] * 3)
    for _ in range(2):
        with pytest.raises(APIStatusError):
            client.predict("intent", "hi")
    assert script.pauses == [0.5]


def test_options_of_a_copy_share_the_budget(script: Any, wire: Any) -> None:
    client = script.client()
    script.queue(wire.problem(503, "x"), wire.prediction(wire.label("pos")))
    with pytest.raises(APIStatusError):
        client.with_options(max_retries=0).predict("intent", "hi")
    assert client.predict("intent", "hi").task == "text-classification"


async def test_the_async_client_follows_the_same_rules(script: Any, wire: Any) -> None:
    script.queue(wire.problem(503, "x"), httpx2.ConnectError("no"), wire.prediction(wire.label("pos")))
    async with script.async_client() as client:
        response = await client.predict("intent", "hi")
    assert response.adapter.version == 3
    assert script.pauses == [0.5, 1.0]
