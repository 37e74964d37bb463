"""The traffic of rollouts: counts what each of an alias' versions answers, and has a shadow compute it too.

Knows no HTTP. Only aliases with a canary or a shadow come here; the others cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from prefixrack.errors import Fault
from prefixrack_server.agreement import agree
from prefixrack_server.envelope import Envelope
from prefixrack_server.metrics import OTHERS
from prefixrack_server.predict import BULK_PRIORITY, Call, Predictor, outcome_json, result_key
from prefixrack_server.registry.rollouts import Role, Route
from prefixrack_server.registry.versions import Version
from prefixrack_server.tokenise import is_big
from prefixrack_server.traffic import LATENCIES

# Versions of rollouts with labels of their own; later ones are counted together: labels are bounded.
MAX_LABELLED: Final = 300
MAX_SHADOWS: Final = 64  # requests at once; what comes meanwhile is not shadowed
SHADOW_TIMEOUT_S: Final = 30.0
NAMES: Final = ("tenant", "adapter", "alias", "version", "role")

Labels = tuple[str, str, str, str, str]  # as NAMES
Note = Callable[[str], None]  # of an outcome, `OK` or a code
OK: Final = "ok"

log = structlog.stdlib.get_logger("prefixrack.rollouts")


class RolloutTraffic:
    """Lives as long as the process. `counters` None is prometheus_client's multiprocess mode."""

    def __init__(self, predictor: Predictor, counters: CollectorRegistry | None) -> None:
        self._predictor = predictor
        self._labelled: set[Labels] = set()
        self._shadows: set[asyncio.Task[None]] = set()
        self._requests = Counter(
            "prefixrack_rollout_requests",
            "Requests for an alias with a canary or a shadow, and lines, by version and outcome (ok or a code)",
            (*NAMES, "outcome"),
            registry=counters,
        )
        self._seconds = Histogram(
            "prefixrack_rollout_seconds",
            "Time to an answer, by version; no lines of bulk bodies",
            NAMES,
            buckets=LATENCIES,
            registry=counters,
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
        with self._counting([self._labels(route, version, role)]):
            body = await self._predictor.predict(version, envelope, call)
        if route.rollout.shadow is not None:
            self._begin_shadow(route, route.rollout.shadow, body["outputs"], envelope, call)
        return body

    async def fan_out(
        self, routes: Mapping[str, Route | Fault], key: str | None, envelope: Envelope, call: Call
    ) -> dict[str, Any]:
        """As `predict`, for several aliases at once; shadows compute nothing of it. Raises as `Predictor.fan_out`."""
        versions, labels = self._choose(routes, key)
        with self._counting(labels.values()) as outcomes:
            body = await self._predictor.fan_out(versions, envelope, call)
            for result_of, own in labels.items():
                if "error" in body["results"][result_of]:
                    outcomes[own] = body["results"][result_of]["error"]["code"]
        return body

    def note_of(self, route: Route, version: Version, role: Role) -> Note | None:
        """What counts the lines of a bulk body for this version; None where there is no rollout."""
        if route.rollout is None:
            return None
        labels = self._labels(route, version, role)
        return lambda outcome: self._requests.labels(*labels, outcome).inc()

    async def stop(self) -> None:
        """Let the shadows go: nobody waits for them."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    def _choose(
        self, routes: Mapping[str, Route | Fault], key: str | None
    ) -> tuple[dict[str, Version | Fault], dict[str, Labels]]:
        """The version of each reference, and of those with a rollout the labels, by their keys in the results."""
        versions: dict[str, Version | Fault] = {}
        labels: dict[str, Labels] = {}
        for ref, route in routes.items():
            if isinstance(route, Fault):
                versions[ref] = route
                continue
            version, role = route.choose(key)
            versions[ref] = version
            if route.rollout is not None:
                labels[result_key(ref, version)] = self._labels(route, version, role)
        return versions, labels

    @contextmanager
    def _counting(self, labels: Iterable[Labels]) -> Iterator[dict[Labels, str]]:
        """Count a request of each at the end: as what the block notes, or as the fault that ends it."""
        started, outcomes = time.perf_counter(), dict.fromkeys(labels, OK)
        try:
            yield outcomes
        except BaseException as error:
            outcomes = dict.fromkeys(outcomes, error.code if isinstance(error, Fault) else "failed")
            raise
        finally:
            seconds = time.perf_counter() - started
            for own, outcome in outcomes.items():
                self._requests.labels(*own, outcome).inc()
                if outcome == OK:
                    self._seconds.labels(*own).observe(seconds)

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
            with self._counting([self._labels(route, shadow, "shadow")]):
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
        own_call = call._replace(deadline=time.monotonic() + SHADOW_TIMEOUT_S, is_gone=None)
        answers = iter(await self._predictor.compute(list(batch.rows()), own_call, BULK_PRIORITY))
        outcomes = await self._predictor.tokeniser.work(big, lambda: batch.finish(answers))
        return [outcome_json(outcome) for outcome in outcomes]

    def _note(self, route: Route, shadow: Version, agreement: str, count: int = 1) -> None:
        *labels, _role = self._labels(route, shadow, "shadow")
        self._agreement.labels(*labels, agreement).inc(count)

    def _labels(self, route: Route, version: Version, role: Role) -> Labels:
        assert route.rollout is not None, "only rollouts are counted"
        labels = (version.tenant, version.name, route.rollout.alias, str(version.number), role)
        if labels not in self._labelled:
            if len(self._labelled) >= MAX_LABELLED:
                return (OTHERS, OTHERS, OTHERS, "", role)
            self._labelled.add(labels)
        return labels
