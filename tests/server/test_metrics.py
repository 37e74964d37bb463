"""Metrics: what a scrape shows of requests, adapters, tenants and the engine, and how long it may get."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefixrack_server.distributions import PACK_ROWS, Distribution, Tally
from prefixrack_server.messages import RowFailure

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def scrape(server: Any) -> Samples:
    text = (await server.client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_adapter(samples: Samples, name: str, adapter: str, **labels: str) -> float:
    wanted = {"tenant": "default", "adapter": adapter, "version": "1"} | labels
    return samples[f"prefixrack_adapter_{name}", tuple(sorted(wanted.items()))]


def of_tenant(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"prefixrack_tenant_{name}", tuple(sorted({"tenant": "default", **labels}.items()))]


async def test_an_adapter_has_its_requests_tokens_and_latencies(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    usage = (await server.predict("intent", ["hello", "hello world"])).json()["usage"]
    await server.predict("intent", "")
    samples = await scrape(server)
    assert of_adapter(samples, "requests_total", "intent", outcome="ok") == 1
    assert of_adapter(samples, "requests_total", "intent", outcome="client_error") == 1
    assert of_adapter(samples, "rows_total", "intent") == 2
    assert of_adapter(samples, "tokens_total", "intent") == usage["tokens"]
    assert of_adapter(samples, "seconds_count", "intent") == 1
    assert of_adapter(samples, "seconds_bucket", "intent", le="+Inf") == 1
    assert of_tenant(samples, "tokens_total") == usage["tokens"]
    assert of_tenant(samples, "requests_total", outcome="ok") == 1


async def test_the_servers_faults_are_not_the_callers(server: Any, bundles: Any) -> None:
    bundle = bundles("intent")
    await server.upload(bundle)
    server.engine.failures[bundle.digest] = RowFailure("server_overloaded", "full")
    assert (await server.predict("intent", "hello")).status_code == 503
    body = {"adapters": ["intent"], "inputs": "hello"}
    assert (await server.client.post("/v1/predict", json=body)).status_code == 503
    samples = await scrape(server)
    assert of_adapter(samples, "requests_total", "intent", outcome="server_error") >= 1
    assert of_adapter(samples, "requests_total", "intent", outcome="ok") == 0


async def test_a_fan_out_counts_for_each_adapter_and_a_bulk_body_by_its_lines(server: Any, bundles: Any) -> None:
    for name in ("intent", "topic"):
        await server.upload(bundles(name))
    body = {"adapters": ["intent", "topic"], "inputs": "hello"}
    assert (await server.client.post("/v1/predict", json=body)).status_code == 200
    lines = b'{"inputs": "hello"}\n{"inputs": "world"}\n{"inputs": ""}\n'
    headers = {"content-type": "application/jsonl"}
    assert (await server.client.post("/v1/topic/predict", content=lines, headers=headers)).status_code == 200
    samples = await scrape(server)
    assert of_adapter(samples, "requests_total", "intent", outcome="ok") == 1
    assert of_adapter(samples, "requests_total", "topic", outcome="ok") == 3
    assert of_adapter(samples, "requests_total", "topic", outcome="client_error") == 1
    assert of_adapter(samples, "seconds_count", "topic") == 1
    assert of_tenant(samples, "requests_total", outcome="ok") == 4


async def test_the_busiest_adapters_have_labels_and_all_others_one(serving: Any, bundles: Any) -> None:
    async with serving(metrics={"max_adapters": 2}) as server:
        for name in ("one", "two", "three", "four"):
            await server.upload(bundles(name))
        for name in ("one", "two", "three", "four", "four", "four", "four"):
            await server.predict(name, "hello")
        traffic = server.app.state.services.predictor.traffic
        samples = await scrape(server)
        assert labelled(samples) == {"one", "two", "_other"}
        assert of_others(samples) == 5
        await traffic.turn()
        await server.predict("four", "hello")
        samples = await scrape(server)
        assert "four" in labelled(samples)
        assert len(labelled(samples)) == 3
        assert of_others(samples) == 5


def of_others(samples: Samples) -> float:
    return of_adapter(samples, "requests_total", "_other", tenant="_other", version="", outcome="ok")


def labelled(samples: Samples) -> set[str]:
    return {dict(labels)["adapter"] for name, labels in samples if name == "prefixrack_adapter_tokens_total"}


async def test_the_page_has_a_bound(serving: Any, bundles: Any) -> None:
    """As long as it can get: every label of every adapter and tenant is taken."""
    async with serving() as server:
        await server.upload(bundles("intent"))
        version = await server.registry.resolve("default", "intent")
        traffic = server.app.state.services.predictor.traffic
        for number in range(10_000):
            traffic.answered(_named(version, f"{number:05}-{'x' * 57}"), 1, 30, 0.01)
        page = (await server.client.get("/metrics")).content
    assert len(page) < 2_000_000
    assert page.count(b"prefixrack_adapter_tokens_total{") == 101


def _named(version: Any, name: str) -> Any:
    return replace(version, name=name)


async def test_every_metric_has_the_servers_prefix_a_help_and_a_unit_that_prometheus_wants(server: Any) -> None:
    text = (await server.client.get("/metrics")).text
    families = list(text_string_to_metric_families(text))
    assert families
    for family in families:
        assert re.fullmatch(r"prefixrack_[a-z_]+", family.name)
        assert family.documentation
    assert "prefixrack_build_info{" in text


def test_a_tally_counts_a_value_in_the_range_that_ends_with_it() -> None:
    tally = Tally(PACK_ROWS)
    for value in (1, 2, 3, 4, 5000):
        tally.add(value)
    counts, total = tally.snapshot().counts, tally.snapshot().total
    assert counts[:4] == (1, 1, 2, 0)
    assert counts[-1] == 1
    assert total == 5010


@pytest.mark.parametrize("seen", [Distribution(), Distribution((1,) * 12, 5.0)])
async def test_pack_sizes_are_a_histogram(server: Any, monkeypatch: pytest.MonkeyPatch, seen: Distribution) -> None:
    stats = server.engine.stats
    monkeypatch.setattr(server.engine, "stats", lambda: replace(stats(), pack_rows=seen))
    samples = await scrape(server)
    assert samples["prefixrack_pack_rows_count", ()] == sum(seen.counts)
    assert samples["prefixrack_pack_rows_sum", ()] == seen.total
    assert samples["prefixrack_pack_rows_bucket", (("le", "1"),)] == sum(seen.counts[:1])
