"""Spans: where a request's time went, as OpenTelemetry's spans below the one that FastAPI opens for it.

All are made after the fact, from times that are measured anyway: where tracing is off, a request pays for a few
comparisons. A pack is a span of its own, of no request's trace; it links to the requests that were in it, and they to
it. No span has anything of an input.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, Tracer

from prefixrack_server.messages import RowDone

if TYPE_CHECKING:
    from prefixrack_server.dispatch import Ticket

TRACER: Final = "prefixrack"
UNTRACED: Final = frozenset({"/metrics", "/health/live", "/health/ready"})


def telemetry() -> TelemetryConfig:
    """FastAPI's own part: a span for each request, with the caller's trace as its parent (W3C trace context).

    Exporters come from the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT …); without one nothing is traced. Its logs
    are off, since they hold the messages of exceptions, and its metrics, since /metrics has them.
    """
    return {
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": True,
        "exclude": lambda scope: scope.get("path") in UNTRACED,
    }


class Caller(NamedTuple):
    """Who waits for rows: the span of the request, and when they were submitted (nanoseconds since 1970)."""

    span: SpanContext
    submitted_at: int


class Spans:
    """Process life. Off until `start` finds that tracing is set up."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None

    def start(self) -> None:
        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
            self._tracer = provider.get_tracer(TRACER)

    @property
    def is_on(self) -> bool:
        return self._tracer is not None

    def caller(self) -> Caller | None:
        """The request that this task works for, if it is traced."""
        if self._tracer is None:
            return None
        span = trace.get_current_span()
        return Caller(span.get_span_context(), time.time_ns()) if span.is_recording() else None

    def worked(self, name: str, began: float, **attributes: Any) -> None:
        """Something that the current request did, from `began` (of `time.perf_counter()`) until now."""
        if self._tracer is None or not trace.get_current_span().is_recording():
            return
        now = time.time_ns()
        began_at = now - int((time.perf_counter() - began) * 1e9)
        self._tracer.start_span(name, start_time=began_at, attributes=attributes).end(now)

    def packed(self, shares: Sequence[tuple[Ticket, RowDone]]) -> None:
        """Rows that one pack answered for this front end, each with its ticket: what the engine delivers at once."""
        if self._tracer is None:
            return
        answers: dict[Ticket, list[RowDone]] = {}
        for ticket, answer in shares:
            answers.setdefault(ticket, []).append(answer)
        callers = [(ticket.caller, done) for ticket, done in answers.items() if ticket.caller is not None]
        if callers:
            self._write_pack(self._tracer, callers, len(shares))

    def _write_pack(self, tracer: Tracer, callers: Sequence[tuple[Caller, list[RowDone]]], num_rows: int) -> None:
        now = time.time_ns()
        began_at = now - int(max(answer.compute_ms for _, done in callers for answer in done) * 1e6)
        links = [Link(caller.span) for caller, _ in callers]
        pack = tracer.start_span(
            "pack", Context(), links=links, start_time=began_at, attributes={"prefixrack.rows": num_rows}
        )
        pack.end(now)
        for caller, done in callers:
            self._write_share(tracer, caller, done, began_at, now, Link(pack.get_span_context()))

    def _write_share(
        self, tracer: Tracer, caller: Caller, done: list[RowDone], began_at: int, now: int, link: Link
    ) -> None:
        parent = trace.set_span_in_context(trace.NonRecordingSpan(caller.span), Context())
        attributes = {"prefixrack.rows": len(done)}
        queued_at = min(caller.submitted_at, began_at)
        tracer.start_span("queue", parent, start_time=queued_at, attributes=attributes).end(began_at)
        tracer.start_span("compute", parent, start_time=began_at, attributes=attributes, links=[link]).end(now)
