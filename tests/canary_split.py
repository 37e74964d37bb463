"""Whom a canary answers, over HTTP: the version of each answer, from several replicas at once. Knows no test
framework."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx2

from prefixrack.exposition import Scrape

NUM_CALLERS = 4
TEXT = "the cat sat"
COUNTED = "prefixrack_rollout_requests_total"


def versions_answering(base_urls: Sequence[str], name: str, keys: Sequence[str | None]) -> list[int]:
    """Which version answered the request with each key, None for one without; replicas take turns.

    Raises httpx2.HTTPStatusError for an answer that is none.
    """

    def call(first: int) -> list[int]:
        with httpx2.Client(timeout=60) as http:
            return [
                _version(http, f"{base_urls[number % len(base_urls)]}/v1/{name}/predict", keys[number])
                for number in range(first, len(keys), NUM_CALLERS)
            ]

    with ThreadPoolExecutor(NUM_CALLERS) as threads:
        seen = list(threads.map(call, range(NUM_CALLERS)))
    return [seen[number % NUM_CALLERS][number // NUM_CALLERS] for number in range(len(keys))]


def _version(http: httpx2.Client, url: str, key: str | None) -> int:
    headers = {} if key is None else {"X-Routing-Key": key}
    answer = http.post(url, json={"inputs": TEXT}, headers=headers).raise_for_status()
    version: int = answer.json()["adapter"]["version"]
    return version


def num_counted(base_urls: Sequence[str], name: str, role: str) -> int:
    """The requests that the replicas' metrics have of the alias' stable version or of its canary."""
    total = 0.0
    for base_url in base_urls:
        page = httpx2.get(f"{base_url}/metrics", timeout=60).raise_for_status().text
        total += Scrape.parse(page, 0.0).sum(COUNTED, adapter=name, role=role, outcome="ok")
    return int(total)
