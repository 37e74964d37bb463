"""Traces: which spans a request has, how packs link them, what the SDK hands on, and that no input is in one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from prefixrack import AsyncClient
from prefixrack.connection import trace_headers
from prefixrack_server.spans import Spans

SECRET = "hello world good"
WAY = ["tokenise", "queue", "compute", "output"]


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Tracing as an application sets it up, for one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def traced(exported: InMemorySpanExporter, server: Any, bundles: Any) -> Any:
    for name in ("intent", "topic"):
        await server.upload(bundles(name))
    exported.clear()
    return server


def spans_of(exported: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exported.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def context_of(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def links_of(span: ReadableSpan) -> set[tuple[int, int]]:
    return {(link.context.trace_id, link.context.span_id) for link in span.links}


async def test_a_prediction_is_a_trace_of_its_way(traced: Any, exported: InMemorySpanExporter) -> None:
    assert (await traced.predict("intent", SECRET)).status_code == 200
    spans = spans_of(exported)
    (root,) = spans["POST /v1/{ref}/predict"]
    assert root.kind is SpanKind.SERVER
    for name in WAY:
        (span,) = spans[name]
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == context_of(root)
        assert root.start_time is not None
        assert root.end_time is not None
        assert span.start_time is not None
        assert span.end_time is not None
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time


async def test_requests_of_one_pack_and_the_pack_link_to_each_other(
    traced: Any, exported: InMemorySpanExporter, until: Any
) -> None:
    traced.engine.go.clear()
    calls = [asyncio.create_task(traced.predict(name, SECRET)) for name in ("intent", "topic")]
    dispatcher = traced.app.state.services.dispatcher
    await until(lambda: dispatcher.num_rows == 2)
    traced.engine.go.set()
    assert [call.status_code for call in await asyncio.gather(*calls)] == [200, 200]
    spans = spans_of(exported)
    roots = {context_of(root) for root in spans["POST /v1/{ref}/predict"]}
    assert set().union(*(links_of(pack) for pack in spans["pack"])) == roots
    packs = {context_of(pack) for pack in spans["pack"]}
    assert set().union(*(links_of(share) for share in spans["compute"])) == packs
    assert all(pack.parent is None for pack in spans["pack"])


@pytest.mark.parametrize("media_type", ["application/json", "application/jsonl"])
async def test_fan_outs_and_bulk_bodies_are_traced_too(
    traced: Any, exported: InMemorySpanExporter, media_type: str
) -> None:
    if media_type == "application/json":
        body = {"adapters": ["intent", "topic"], "inputs": SECRET}
        assert (await traced.client.post("/v1/predict", json=body)).status_code == 200
    else:
        lines = b'{"inputs": "hello"}\n{"inputs": "world"}\n'
        headers = {"content-type": media_type}
        assert (await traced.client.post("/v1/intent/predict", content=lines, headers=headers)).status_code == 200
    spans = spans_of(exported)
    (root,) = (span for name, found in spans.items() if name.startswith("POST") for span in found)
    assert {span.parent.span_id for span in spans["compute"] if span.parent} == {context_of(root)[1]}


async def test_the_sdk_hands_its_callers_trace_on(traced: Any, exported: InMemorySpanExporter) -> None:
    transport = httpx2.ASGITransport(app=traced.app)
    async with AsyncClient("http://localhost", max_retries=0, transport=transport) as client:
        with trace.get_tracer("caller").start_as_current_span("the caller's work") as work:
            await client.predict("intent", SECRET)
    (root,) = spans_of(exported)["POST /v1/{ref}/predict"]
    assert root.parent is not None
    assert root.parent.is_remote
    assert (root.parent.trace_id, root.parent.span_id) == (
        work.get_span_context().trace_id,
        work.get_span_context().span_id,
    )


def test_a_caller_without_a_span_sends_none() -> None:
    assert trace_headers() == {}


async def test_no_span_has_anything_of_an_input(traced: Any, exported: InMemorySpanExporter) -> None:
    await traced.predict("intent", SECRET)
    await traced.client.post("/v1/intent/predict", content=f'{{"inputs": "{SECRET}'.encode())
    await traced.client.post("/v1/intent/predict", json={"inputs": SECRET, SECRET: 1})
    assert exported.get_finished_spans()
    for span in exported.get_finished_spans():
        assert SECRET not in span.to_json()


async def test_probes_and_scrapes_are_not_traced(traced: Any, exported: InMemorySpanExporter) -> None:
    for path in ("/metrics", "/health/live", "/health/ready"):
        assert (await traced.client.get(path)).status_code == 200
    assert not exported.get_finished_spans()


async def test_without_tracing_nothing_is_made(server: Any, bundles: Any) -> None:
    await server.upload(bundles("intent"))
    spans = server.app.state.services.dispatcher.spans
    assert not spans.is_on
    assert spans.caller() is None
    assert (await server.predict("intent", "hello")).status_code == 200


def test_an_untraced_task_has_no_caller(exported: InMemorySpanExporter) -> None:
    spans = Spans()
    spans.start()
    assert spans.is_on
    assert spans.caller() is None
    spans.worked("nobody's work", 0.0)
    assert not exported.get_finished_spans()
