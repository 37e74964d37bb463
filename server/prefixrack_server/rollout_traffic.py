"""The traffic of rollouts: counts what each of an alias' versions answers, and has a shadow compute it too.

Knows no HTTP. Only aliases with a canary or a shadow come here; the others cost nothing.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect

from prefixrack.errors import Fault, InternalFault
from prefixrack_server.agreement import agree
from prefixrack_server.envelope import Envelope
from prefixrack_server.predict import BULK_PRIORITY, Call, Predictor, outcome_json, result_key
from prefixrack_server.registry.registry import Registry
from prefixrack_server.registry.rollouts import Role, Route, Running
from prefixrack_server.registry.versions import Version
from prefixrack_server.row_faults import FAULT_OF_CODE
from prefixrack_server.tokenise import is_big
from prefixrack_server.traffic import (
    AGREEMENTS,
    CALLERS_FAULTS,
    CLIENT_ERROR,
    FIRST_AGREEMENT,
    FIRST_ROLLOUT_LATENCY,
    LATENCIES,
    OK,
    ROLLOUT_MICROSECONDS,
    SERVER_ERROR,
    Traffic,
    outcome_of,
)

MAX_SHADOWS: Final = 64  # requests at once; what comes meanwhile is not shadowed
SHADOW_TIMEOUT_S: Final = 30.0
NOBODYS: Final = (ClientDisconnect, asyncio.CancelledError)  # the caller has left: no outcome

Note = Callable[[Fault | None], None]  # of an outcome: None where there is an answer

log = structlog.stdlib.get_logger("prefixrack.rollouts")


class RolloutTraffic:
    """Lives as long as the process."""

    def __init__(self, predictor: Predictor, traffic: Traffic) -> None:
        self._predictor = predictor
        self._board = traffic.rollouts
        self._ended: set[tuple[str, ...]] = set()
        self._shadows: set[asyncio.Task[None]] = set()

    @property
    def num_shadows(self) -> int:
        """Requests that shadows are computing."""
        return len(self._shadows)

    async def predict(self, route: Route, key: str | None, envelope: Envelope, call: Call) -> dict[str, Any]:
        """The body of the answer, by the version that the key falls to. Raises as `Predictor.predict`."""
        if route.rollout is None:
            return await self._predictor.predict(route.version, envelope, call)
        version, role = route.choose(key)
        with self._counting([_key(route, version, role)]):
            body = await self._predictor.predict(version, envelope, call)
        if route.rollout.shadow is not None:
            self._begin_shadow(route, route.rollout.shadow, body["outputs"], envelope, call)
        return body

    async def fan_out(
        self, routes: Mapping[str, Route | Fault], key: str | None, envelope: Envelope, call: Call
    ) -> dict[str, Any]:
        """As `predict`, for several aliases at once; shadows compute nothing of it. Raises as `Predictor.fan_out`."""
        versions, keys = self._choose(routes, key)
        with self._counting(keys.values()) as outcomes:
            body = await self._predictor.fan_out(versions, envelope, call)
            for result_of, own in keys.items():
                if "error" in body["results"][result_of]:
                    outcomes[own] = _outcome_of_code(body["results"][result_of]["error"]["code"])
        return body

    def note_of(self, route: Route, version: Version, role: Role) -> Note | None:
        """What counts the lines of a bulk body for this version; None where there is no rollout."""
        if route.rollout is None:
            return None
        key = _key(route, version, role)
        return lambda fault: self._add(key, OK if fault is None else outcome_of(fault))

    async def turn(self, registry: Registry) -> None:
        """To be called every `scoreboard.TURN_S`: let go of the counts of rollouts that had ended at the turn before
        too. By then they were scraped a last time."""
        counted = {score.key for score in self._board.scores() if score.key is not None}
        ended = counted - await registry.running_rollouts() if counted else set()
        self._board.release(ended & self._ended)
        self._ended = ended

    async def stop(self) -> None:
        """Let the shadows go: nobody waits for them."""
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)

    def _choose(
        self, routes: Mapping[str, Route | Fault], key: str | None
    ) -> tuple[dict[str, Version | Fault], dict[str, Running]]:
        """The version of each reference, and whose counts are those with a rollout, by their keys in the results."""
        versions: dict[str, Version | Fault] = {}
        counted: dict[str, Running] = {}
        for ref, route in routes.items():
            if isinstance(route, Fault):
                versions[ref] = route
                continue
            version, role = route.choose(key)
            versions[ref] = version
            if route.rollout is not None:
                counted[result_key(ref, version)] = _key(route, version, role)
        return versions, counted

    @contextmanager
    def _counting(self, keys: Iterable[Running]) -> Iterator[dict[Running, int]]:
        """Count a request of each at the end: as what the block notes, or as the fault that ends it."""
        started, outcomes = time.perf_counter(), dict.fromkeys(keys, OK)
        try:
            yield outcomes
        except NOBODYS:
            raise
        except BaseException as error:
            for key in outcomes:
                self._add(key, outcome_of(error))
            raise
        for key, outcome in outcomes.items():
            self._add(key, outcome, time.perf_counter() - started)

    def _add(self, key: Running, count: int, seconds: float | None = None, times: int = 1) -> None:
        """`seconds`: how long the answer took, where somebody waited for it."""
        place, cells = self._board.place(key, times), self._board.cells
        cells[place + count] += times
        if seconds is not None and count == OK:
            cells[place + ROLLOUT_MICROSECONDS] += int(seconds * 1e6)
            cells[place + FIRST_ROLLOUT_LATENCY + bisect_left(LATENCIES, seconds)] += 1

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
            with self._counting([_key(route, shadow, "shadow")]):
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
        self._add(_key(route, shadow, "shadow"), FIRST_AGREEMENT + AGREEMENTS.index(agreement), times=count)


def _key(route: Route, version: Version, role: Role) -> Running:
    assert route.rollout is not None, "only rollouts are counted"
    return Running(version.tenant, version.name, route.rollout.alias, str(version.number), role)


def _outcome_of_code(code: str) -> int:
    return CLIENT_ERROR if issubclass(FAULT_OF_CODE.get(code, InternalFault), CALLERS_FAULTS) else SERVER_ERROR
