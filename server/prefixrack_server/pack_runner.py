"""The pack runner: one pack through the backbone, and its halves where it fails. Knows no queue, no residency."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InternalFault, NonfiniteOutput
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_server.messages import RowDone, RowFailure
from prefixrack_server.scheduler import QueuedRow

log = logging.getLogger(__name__)

Logits = NDArray[np.float32]


class Computes(Protocol):
    """The backbone, as the engine sees it."""

    def check(self, row: Row) -> None:
        """Raises TokenOutOfRange or PositionOutOfRange."""

    def compute(self, pack: Sequence[PackRow]) -> list[Logits]: ...


AdapterOf = Callable[[str], Adapter]


class PackRunner:
    """Turns the rows of a pack into their answers; one bad row fails alone."""

    def __init__(self, backbone: Computes, clock: Callable[[], float]) -> None:
        self._backbone = backbone
        self._clock = clock

    def run(self, rows: Sequence[QueuedRow], adapter_of: AdapterOf) -> list[RowDone]:
        """One answer per row. `adapter_of` gives the adapter of a pinned digest."""
        started_at = self._clock()
        outcomes = self._outcomes(rows, adapter_of)
        compute_ms = (self._clock() - started_at) * 1e3
        return [_answer(row, outcome, started_at, compute_ms) for row, outcome in zip(rows, outcomes, strict=True)]

    def _outcomes(self, rows: Sequence[QueuedRow], adapter_of: AdapterOf) -> list[Logits | RowFailure]:
        """Compute a pack; where that raises, out of memory too, its halves, down to single rows."""
        try:
            logits = self._backbone.compute([_pack_row(queued, adapter_of) for queued in rows])
            return [_finite(of_row) for _, of_row in zip(rows, logits, strict=True)]
        except Exception as error:  # whatever went wrong must not take the other rows with it
            is_alone = len(rows) == 1
            log.warning("a pack of %d rows failed: %s", len(rows), error, exc_info=is_alone)
            failure = _failure(error)
        if is_alone:
            return [failure]
        middle = len(rows) // 2
        return self._outcomes(rows[:middle], adapter_of) + self._outcomes(rows[middle:], adapter_of)


def _pack_row(queued: QueuedRow, adapter_of: AdapterOf) -> PackRow:
    return PackRow(queued.work.row, None if queued.digest is None else adapter_of(queued.digest))


def _finite(logits: Logits) -> Logits | RowFailure:
    if np.isfinite(logits).all():
        return logits
    return RowFailure(
        NonfiniteOutput.code,
        "the adapter's output is not finite for this input: check the adapter, or serve with --dtype float32",
    )


def _failure(error: Exception) -> RowFailure:
    kind = type(error).__name__
    return RowFailure(InternalFault.code, f"this row could not be computed ({kind}): the server's log says more")


def _answer(queued: QueuedRow, outcome: Logits | RowFailure, started_at: float, compute_ms: float) -> RowDone:
    queue_ms = (started_at - queued.queued_at) * 1e3
    if isinstance(outcome, RowFailure):
        return RowDone(queued.work.row_id, failure=outcome, queue_ms=queue_ms, compute_ms=compute_ms)
    return RowDone(queued.work.row_id, logits=outcome, queue_ms=queue_ms, compute_ms=compute_ms)
