"""Requests made from the API's own description, of every operation: the server fails on none of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import httpx2
import pytest

from listening import Listening
from openapi_requests import operations_of, send_requests

NUM_REQUESTS = 20  # of each operation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_no_request_makes_the_server_fail(serving: Any, bundles: Any, until: Any) -> None:
    async with serving() as server:
        bundle = bundles("intent")
        place = Listening(server)
        task = asyncio.create_task(place.http.serve())
        await until(lambda: place.http.started)
        try:
            document = (await server.client.get("/openapi.json")).json()
            statuses = await asyncio.to_thread(fuzz, document, place.base_url, bundle)
        finally:
            place.http.should_exit = place.http.force_exit = True
            await task
    assert len(statuses) >= 40
    assert any(200 in seen for seen in statuses.values())


def fuzz(document: dict[str, Any], base_url: str, bundle: Any) -> dict[str, set[int]]:
    """The statuses that each operation answered. Fails at the first that is a failure of the server."""
    statuses: dict[str, set[int]] = defaultdict(set)

    def judge(case: Any, response: Any) -> None:
        statuses[case.operation.label].add(response.status_code)
        assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text[:500]}"

    with httpx2.Client(base_url=base_url, timeout=60) as http:
        for operation in operations_of(document):
            # An operation before may have deleted it.
            version = http.post("/admin/v1/adapters/intent/versions", files=bundle.files()).raise_for_status().json()
            send_requests(operation, base_url, NUM_REQUESTS, judge, version=version["version"])
            assert http.get("/health/live").status_code == 200
    return statuses
