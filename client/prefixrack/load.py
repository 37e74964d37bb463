"""Load on a server and what it answered: open loop (requests when they are due) or closed (so many callers in turn).

In an open loop a latency counts from when its request was due, not from when it was sent: a server that stalls cannot
hide the time that callers would have waited. Knows the asynchronous client, no terminal.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from random import Random
from time import perf_counter
from typing import Any, NamedTuple

from prefixrack.errors import APIConnectionError, APIStatusError
from prefixrack.types import PredictResponse

NO_ANSWER = "no_answer"


class Shot(NamedTuple):
    """One request and its end. `code` is None where it was answered; `late_s`: how long after its time it was sent."""

    latency_s: float
    late_s: float
    tokens: int
    code: str | None


@dataclass(frozen=True)
class LoadReport:
    """Milliseconds are of answered requests. `late_p99_ms` is the load's own delay: it is part of the others."""

    mode: str
    seconds: float
    num_requests: int
    num_failed: int
    failures: dict[str, int]
    requests_per_s: float
    tokens_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    late_p99_ms: float | None

    @classmethod
    def of(cls, mode: str, shots: Sequence[Shot], seconds: float) -> LoadReport:
        good = sorted(1e3 * shot.latency_s for shot in shots if shot.code is None)
        late = sorted(1e3 * shot.late_s for shot in shots)
        failures = Counter(shot.code for shot in shots if shot.code is not None)
        return cls(
            mode=mode,
            seconds=round(seconds, 3),
            num_requests=len(shots),
            num_failed=len(shots) - len(good),
            failures=dict(failures.most_common()),
            requests_per_s=round(len(good) / seconds, 2),
            tokens_per_s=round(sum(shot.tokens for shot in shots) / seconds, 1),
            mean_ms=round(sum(good) / len(good), 3) if good else None,
            p50_ms=percentile(good, 0.5),
            p95_ms=percentile(good, 0.95),
            p99_ms=percentile(good, 0.99),
            max_ms=percentile(good, 1.0),
            late_p99_ms=percentile(late, 0.99),
        )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of them does not exceed (nearest rank)."""
    return round(ordered[max(0, ceil(share * len(ordered)) - 1)], 3) if ordered else None


Ask = Callable[[str, Any], Awaitable[PredictResponse]]


@dataclass(frozen=True)
class Load:
    """What is asked: every adapter in turn, its inputs in turn, for `duration_s` seconds."""

    ask: Ask
    work: Sequence[tuple[str, Any]]
    duration_s: float
    seed: int = 0
    on_shot: Callable[[Shot], None] = lambda _shot: None

    async def open_loop(self, rate_per_s: float) -> LoadReport:
        """Independent callers: a Poisson process of that rate. Nobody waits for anybody."""
        random, work, shots = Random(self.seed), cycle(self.work), list[Shot]()
        start = due = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            while (due := due + random.expovariate(rate_per_s)) < start + self.duration_s:
                await asyncio.sleep(max(0.0, due - perf_counter()))
                tasks.create_task(self._shoot(next(work), due, shots))
        return LoadReport.of(f"open loop, {rate_per_s:g} requests/s", shots, perf_counter() - start)

    async def closed_loop(self, concurrency: int) -> LoadReport:
        """So many callers, each asking again when it has its answer: what the server can do at most."""
        work, shots, start = cycle(self.work), list[Shot](), perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrency):
                tasks.create_task(self._caller(work, start + self.duration_s, shots))
        return LoadReport.of(f"closed loop, {concurrency} callers", shots, perf_counter() - start)

    async def _caller(self, work: Iterator[tuple[str, Any]], until: float, shots: list[Shot]) -> None:
        while (now := perf_counter()) < until:
            await self._shoot(next(work), now, shots)

    async def _shoot(self, work: tuple[str, Any], due: float, shots: list[Shot]) -> None:
        sent = perf_counter()
        tokens, code = 0, None
        try:
            tokens = (await self.ask(*work)).usage.tokens
        except APIStatusError as error:
            code = error.code or str(error.status)
        except APIConnectionError:
            code = NO_ANSWER
        shot = Shot(perf_counter() - due, sent - due, tokens, code)
        shots.append(shot)
        self.on_shot(shot)
