"""Requests made from the API's own description, of every operation: the server fails on none of them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from listening import Listening

NUM_REQUESTS = 20  # of each operation
FUZZ = settings(
    max_examples=NUM_REQUESTS,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
# What is there when the requests begin; half of them are about it, as far as they name it in their path.
THERE = {"ref": "intent", "name": "intent", "model": "intent", "alias": "production", "tenant": "default"}


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
    schema = schemathesis.openapi.from_dict(document)
    operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    with httpx2.Client(base_url=base_url, timeout=60) as http:
        statuses = {}
        for operation in operations:
            # An operation before may have deleted it.
            version = http.post("/admin/v1/adapters/intent/versions", files=bundle.files()).raise_for_status().json()
            numbers = {"number": version["version"], "version": str(version["version"])}
            statuses[operation.label] = statuses_of(operation, base_url, THERE | numbers)
            assert http.get("/health/live").status_code == 200
        return statuses


def statuses_of(operation: Any, base_url: str, there: dict[str, Any]) -> set[int]:
    seen = set()

    @FUZZ
    @given(case=operation.as_strategy(), is_there=st.booleans())
    def call(case: Any, is_there: bool) -> None:
        if is_there:
            case.path_parameters.update({name: there[name] for name in there if name in case.path_parameters})
        response = case.call(base_url=base_url)
        seen.add(response.status_code)
        assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text[:500]}"

    call()
    return seen
