"""The traffic of rollouts: counts what each of an alias' versions answers, and has a shadow compute it too.

Knows no HTTP. Only aliases with a canary or a shadow come here; the others cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from prefixrack.errors import Fault
from prefixrack_server.agreement import agree
from prefixrack_server.envelope import Envelope
from prefixrack_server.predict import BULK_PRIORITY, Call, Predictor, outcome_json
from prefixrack_server.registry.rollouts import Role, Route
from prefixrack_server.registry.versions import Version
from prefixrack_server.tokenise import is_big

# Names of more rollouts at once are counted together: labels are bounded.
MAX_ROLLOUTS: Final = 200
MAX_SHADOWS: Final = 64  # requests at once; what comes meanwhile is not shadowed
SHADOW_TIMEOUT_S: Final = 30.0
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
NAMES: Final = ("tenant", "adapter", "alias", "version", "role")

log = structlog.stdlib.get_logger("prefixrack.rollouts")


class RolloutTraffic:
    """Lives as long as the process. `counters` None is prometheus_client's multiprocess mode."""

    def __init__(self, predictor: Predictor, counters: CollectorRegistry | None) -> None:
        self._predictor = predictor
        self._names: dict[tuple[str, str, str], tuple[str, str, str]] = {}
        self._shadows: set[asyncio.Task[None]] = set()
        self._requests = Counter(
            "prefixrack_rollout_requests",
            "Requests for an alias with a canary or a shadow, by version and outcome (ok or a code)",
            (*NAMES, "outcome"),
            registry=counters,
        )
        self._seconds = Histogram(
            "prefixrack_rollout_seconds", "Time to an answer, by version", NAMES, buckets=BUCKETS, registry=counters
        )
        self._agreement = Counter(
            "prefixrack_shadow_outputs",
            "Outputs of a shadow beside those that were answered: same, different, failed, or skipped under load",
            ("tenant", "adapter", "alias", "version", "agreement"),
            registry=counters,
        )

    @property
    def num_shadows(self) -> int:
        """Requests that shadows are computing."""
        return len(self._shadows)

    async def predict(self, route: Route, key: str | None, envelope: Envelope, call: Call) -> dict[str, Any]:
        """The body of the answer, by the version that the key falls to. Raises as `Predictor.predict`."""
        if route.rollout is None:
            return await self._predictor.predict(route.version, envelope, call)
        version, role = route.choose(key)
        with self._counting(route, version, role):
            body = await self._predictor.predict(version, envelope, call)
        if route.rollout.shadow is not None:
            self._begin_shadow(route, route.rollout.shadow, body["outputs"], envelope, call)
        return body

    async def stop(self) -> None:
        """Let the shadows go: nobody waits for them."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    @contextmanager
    def _counting(self, route: Route, version: Version, role: Role) -> Iterator[None]:
        labels = (*self._name(route), str(version.number), role)
        started, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "ok"
            self._seconds.labels(*labels).observe(time.perf_counter() - started)
        except Fault as fault:
            outcome = fault.code
            raise
        finally:
            self._requests.labels(*labels, outcome).inc()

    def _begin_shadow(
        self, route: Route, shadow: Version, answered: Sequence[Mapping[str, Any]], envelope: Envelope, call: Call
    ) -> None:
        if len(self._shadows) >= MAX_SHADOWS:
            self._note(route, shadow, "skipped", len(answered))
            return
        task = asyncio.create_task(self._shadow(route, shadow, answered, envelope, call))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(
        self, route: Route, shadow: Version, answered: Sequence[Mapping[str, Any]], envelope: Envelope, call: Call
    ) -> None:
        try:
            with self._counting(route, shadow, "shadow"):
                outputs = await self._compute(shadow, envelope, call)
        except Fault:
            self._note(route, shadow, "failed", len(answered))
            return
        except Exception:
            log.exception("a shadow failed", adapter=shadow.ref)
            self._note(route, shadow, "failed", len(answered))
            return
        for one, other in zip(answered, outputs, strict=True):
            self._note(route, shadow, "same" if agree(one, other) else "different")

    async def _compute(self, shadow: Version, envelope: Envelope, call: Call) -> list[dict[str, Any]]:
        """At the priority of bulk lines, on nobody's quota."""
        big = is_big(len(envelope.inputs), envelope.num_bytes)
        batch = await self._predictor.prepare(shadow, envelope.inputs, envelope.parameters, big)
        own_call = replace(call, deadline=time.monotonic() + SHADOW_TIMEOUT_S, is_gone=None)
        answers = iter(await self._predictor.compute(list(batch.rows()), own_call, BULK_PRIORITY))
        outcomes = await self._predictor.tokeniser.work(big, lambda: batch.finish(answers))
        return [outcome_json(outcome) for outcome in outcomes]

    def _note(self, route: Route, shadow: Version, agreement: str, count: int = 1) -> None:
        self._agreement.labels(*self._name(route), str(shadow.number), agreement).inc(count)

    def _name(self, route: Route) -> tuple[str, str, str]:
        assert route.rollout is not None, "only rollouts are counted"
        version = route.version
        name = (version.tenant, version.name, route.rollout.alias)
        if name not in self._names:
            self._names[name] = name if len(self._names) < MAX_ROLLOUTS else ("other", "other", "other")
        return self._names[name]
