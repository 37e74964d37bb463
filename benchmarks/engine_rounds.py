"""The engine in this process, with its steps taken by the caller's thread: all rows in at once, then step by step.

A server's engine has a thread of its own. Here peers are timed in the same process, and two threads that compute have
more OpenMP threads than there are cores: each would slow the other down.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.bundle import MANIFEST_FILE, TENSORS_FILE
from prefixrack_server.engine import EngineThread
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.messages import BundleRef, EngineStats, RowDone, RowWork
from workload import RandomAdapter, Request


class FolderSource:
    """Bundles straight from their folders, in place of a blob store."""

    def __init__(self, adapters: Sequence[RandomAdapter]) -> None:
        self._folders = {adapter.bundle.digest: adapter.folder for adapter in adapters}

    def fetch(self, bundle: BundleRef) -> tuple[bytes, Path]:
        folder = self._folders[bundle.digest]
        return (folder / MANIFEST_FILE).read_bytes(), folder / TENSORS_FILE


class PumpedEngine(EngineThread):
    """The engine without its thread: the caller takes its steps."""

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        self._deliver = deliver

    def turn(self) -> None:
        """A step, once there is something to do: until then loaders have the interpreter for themselves."""
        if self._has_work():
            self.step()


class StepCosts(NamedTuple):
    """Of some steps, those in which packs were computed included; and of the submission before them."""

    submit_s: float
    steps_s: float
    packs_s: float
    num_rows: int

    @property
    def overhead(self) -> float:
        """What the steps take beside their packs, in relation to the packs."""
        return self.steps_s / self.packs_s - 1


class EngineRounds:
    """A round: submit rows, wait for all answers. `options` are those of `EngineConfig`."""

    def __init__(self, backbone: Backbone, adapters: Sequence[RandomAdapter], threads: int, **options: Any) -> None:
        config = EngineConfig(num_threads=threads, **options)
        self._engine = PumpedEngine(backbone, FolderSource(adapters), config)
        self._answers: queue.SimpleQueue[tuple[float, RowDone]] = queue.SimpleQueue()
        self._engine.start(self._deliver)

    def _deliver(self, answers: Sequence[RowDone]) -> None:
        now = time.perf_counter()
        for answer in answers:
            self._answers.put((now, answer))

    def run(self, requests: Sequence[Request]) -> tuple[list[RowDone], list[float]]:
        """The answers in the order of the requests, and each one's latency in seconds."""
        work = [RowWork(index, request.row, request.adapter.bundle) for index, request in enumerate(requests)]
        started_at = time.perf_counter()
        self._engine.submit(work)
        while self._answers.qsize() < len(work):
            self._engine.turn()
        got = sorted((self._answers.get() for _ in work), key=lambda item: item[1].row_id)
        return [answer for _, answer in got], [now - started_at for now, _ in got]

    def seconds(self, requests: Sequence[Request]) -> float:
        """Wall time of one round."""
        return max(self.run(requests)[1])

    def logits(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        """[num_rows, num_labels]."""
        return np.stack([logits_of(answer) for answer in self.run(requests)[0]])

    def make_resident(self, adapters: Sequence[RandomAdapter], timeout_s: float = 600.0) -> None:
        """Load all of them, for good. Computes nothing."""
        for adapter in adapters:
            self._engine.keep_resident(adapter.bundle, True)
        give_up_at = time.monotonic() + timeout_s
        while (num_resident := self.stats().num_resident) < len(adapters):
            if time.monotonic() > give_up_at:
                raise SystemExit(f"{num_resident} adapters are resident of {len(adapters)}: raise the budget")
            time.sleep(0.05)

    def run_steps(self, requests: Sequence[Request], num_steps: int) -> StepCosts:
        """Queue all the rows and take some steps; then cancel what is left."""
        work = [RowWork(index, request.row, request.adapter.bundle) for index, request in enumerate(requests)]
        submitted_at = time.perf_counter()
        self._engine.submit(work)
        started_at = time.perf_counter()
        for _ in range(num_steps):
            self._engine.step()
        ended_at = time.perf_counter()
        answers = [self._answers.get()[1] for _ in range(self._answers.qsize())]
        self._engine.cancel([row.row_id for row in work])
        # every row of a pack says how long the whole pack took
        packs_ms = {answer.compute_ms for answer in answers}
        return StepCosts(started_at - submitted_at, ended_at - started_at, sum(packs_ms) / 1e3, len(answers))

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def stop(self) -> None:
        self._engine.stop()


def logits_of(answer: RowDone) -> NDArray[np.float32]:
    if answer.logits is None:
        raise SystemExit(f"a row failed: {answer.failure}")
    return answer.logits
