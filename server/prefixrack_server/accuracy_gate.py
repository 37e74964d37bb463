"""The accuracy gate: an adapter is served with int8 weights if it answers its own examples as with the original ones.

Knows outputs and digests; no HTTP, no registry, no tensors.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from prefixrack.errors import AccuracyTooLow, DeadlineExceeded, InputFault, ProbeFailed
from prefixrack.types import Parameters, output_json
from prefixrack_adapters.manifest import Manifest
from prefixrack_adapters.tasks import AnyTask, Prepared
from prefixrack_server.agreement import agree, drift
from prefixrack_server.dispatch import BoundRow, Dispatcher, Payer
from prefixrack_server.holds import Holds
from prefixrack_server.messages import BundleRef, RowDone
from prefixrack_server.row_faults import fault_of, logits_of

TIMEOUT_S: Final = 60.0
MAX_VERDICTS: Final = 65_536  # the oldest are found again


@dataclass(frozen=True, slots=True)
class AccuracyBounds:
    """Over an adapter's examples: the least share that is decided alike, the largest mean difference of scores."""

    min_agreement: float
    max_drift: float

    def check(self, exact: Sequence[Any], narrow: Sequence[Any]) -> None:
        """Raises AccuracyTooLow. The outputs are JSON, of the same examples with original and int8 weights."""
        pairs = list(zip(exact, narrow, strict=True))
        agreement = sum(agree(*pair) for pair in pairs) / len(pairs)
        mean_drift = sum(drift(*pair) for pair in pairs) / len(pairs)
        if agreement < self.min_agreement or mean_drift > self.max_drift:
            raise AccuracyTooLow(
                f"with int8 weights {agreement:.3f} of the adapter's {len(pairs)} examples are decided as with the "
                f"original ones, at least {self.min_agreement:g} is needed, and scores differ by {mean_drift:.3f}, at "
                f"most {self.max_drift:g} is allowed: serve it with --dtype bfloat16 or float32, or change "
                "backbone.min_agreement and backbone.max_score_drift"
            )


class AccuracyGate:
    """Lives as long as the process. A digest is compared once: at its upload, or before its first rows."""

    def __init__(self, dispatcher: Dispatcher, holds: Holds, bounds: AccuracyBounds) -> None:
        self._dispatcher = dispatcher
        self._holds = holds
        self._bounds = bounds
        self._verdicts: OrderedDict[str, asyncio.Task[AccuracyTooLow | None]] = OrderedDict()

    async def admit(self, task: AnyTask, manifest: Manifest, bundle: BundleRef, payer: Payer, priority: int) -> None:
        """Raises AccuracyTooLow, or what kept the examples from being computed; that is tried again next time."""
        verdict = self._verdicts.get(bundle.digest)
        if verdict is None:
            verdict = asyncio.create_task(self._compare(task, manifest, bundle, payer, priority))
            self._verdicts[bundle.digest] = verdict
            if len(self._verdicts) > MAX_VERDICTS:
                self._verdicts.popitem(last=False)
        try:
            fault = await asyncio.shield(verdict)  # others wait for it too, whoever leaves
        except Exception:
            if self._verdicts.get(bundle.digest) is verdict:
                del self._verdicts[bundle.digest]
            raise
        if fault is not None:
            raise AccuracyTooLow(fault.detail)

    async def _compare(
        self, task: AnyTask, manifest: Manifest, bundle: BundleRef, payer: Payer, priority: int
    ) -> AccuracyTooLow | None:
        items = usable(task.prepare_many(manifest.examples or [task.example()], Parameters()))
        rows = [BoundRow(row, bundle, is_exact) for is_exact in (True, False) for item in items for row in item.rows]
        ticket = self._dispatcher.submit(rows, payer, time.monotonic() + TIMEOUT_S, priority)
        try:
            with self._holds.hold([bundle]):
                answers = await self._dispatcher.wait(ticket)
        except DeadlineExceeded:
            raise DeadlineExceeded(
                f"the adapter's examples were not compared within {TIMEOUT_S:.0f} s, the server is too busy: try "
                "again later"
            ) from None
        middle = len(answers) // 2
        exact, narrow = (outputs_of(task, items, half) for half in (answers[:middle], answers[middle:]))
        try:
            self._bounds.check(exact, narrow)
        except AccuracyTooLow as fault:
            return fault
        return None


def usable(items: Sequence[Prepared | InputFault]) -> list[Prepared]:
    """Raises ProbeFailed where an example is none of the task's inputs."""
    for item in items:
        if isinstance(item, InputFault):
            raise ProbeFailed(f"one of the manifest's `examples` is not usable ({item.detail}): give one that is")
    return [item for item in items if isinstance(item, Prepared)]


def outputs_of(task: AnyTask, items: Sequence[Prepared], answers: Sequence[RowDone]) -> list[Any]:
    left = iter(answers)
    outputs = []
    for item in items:
        done = [next(left) for _ in item.rows]
        for answer in done:
            if answer.failure is not None:
                raise fault_of(answer.failure)
        outputs.append(output_json(task.finish(item, logits_of(done), Parameters())))
    return outputs
