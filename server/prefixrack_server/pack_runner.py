"""The pack runner: one pack through the backbone, and its halves where it fails. Knows no queue, no residency."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import InternalFault, NonfiniteOutput, ServerOverloaded
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_server.messages import RowDone, RowFailure
from prefixrack_server.out_of_memory import is_out_of_memory
from prefixrack_server.queued_row import QueuedRow

log = logging.getLogger(__name__)

Logits = NDArray[np.float32]


class Pending(Protocol):
    """A pack that has begun."""

    def wait(self) -> list[Logits]:
        """By row. Raises whatever went wrong with the pack."""


class Computes(Protocol):
    """The backbone, as the engine sees it."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether `launch` returns while the pack is being computed, so that another can be prepared meanwhile."""

    def check(self, row: Row) -> None:
        """Raises TokenOutOfRange or PositionOutOfRange."""

    def launch(self, pack: Sequence[PackRow]) -> Pending: ...


AdapterOf = Callable[[str], Adapter]


@dataclass(frozen=True, slots=True)
class Flight:
    """A pack between its launch and its landing; `fault` is why it never began. `is_full`: it left rows behind."""

    rows: Sequence[QueuedRow]
    adapter_of: AdapterOf
    started_at: float
    pending: Pending | None
    fault: Exception | None = None
    is_full: bool = False


class PackRunner:
    """Turns the rows of a pack into their answers; one bad row fails alone.

    `too_large` is told the tokens of each pack of several rows for which memory did not suffice.
    """

    def __init__(self, backbone: Computes, clock: Callable[[], float], too_large: Callable[[int], None]) -> None:
        self._backbone = backbone
        self._clock = clock
        self._too_large = too_large

    def launch(self, rows: Sequence[QueuedRow], adapter_of: AdapterOf, *, is_full: bool = False) -> Flight:
        """Begin a pack. `adapter_of` gives the adapter of a digest, pinned until the flight has landed."""
        started_at = self._clock()
        try:
            pending = self._backbone.launch([_pack_row(queued, adapter_of) for queued in rows])
        except Exception as error:  # noqa: BLE001 - it is told when the flight lands, where its halves are tried
            return Flight(rows, adapter_of, started_at, None, error, is_full)
        return Flight(rows, adapter_of, started_at, pending, is_full=is_full)

    def land(self, flight: Flight) -> list[RowDone]:
        """One answer per row of a flight, once it is computed."""
        outcomes = self._outcomes(flight)
        compute_ms = (self._clock() - flight.started_at) * 1e3
        pairs = zip(flight.rows, outcomes, strict=True)
        return [_answer(row, outcome, flight.started_at, compute_ms) for row, outcome in pairs]

    def _outcomes(self, flight: Flight) -> list[Logits | RowFailure]:
        """Of a pack that failed, out of memory too, its halves are tried, down to single rows."""
        rows = flight.rows
        try:
            if flight.pending is None:
                assert flight.fault is not None, "a flight that never began says why"
                raise flight.fault
            logits = flight.pending.wait()
            return [_finite(of_row) for _, of_row in zip(rows, logits, strict=True)]
        except Exception as error:  # whatever went wrong must not take the other rows with it
            is_alone = len(rows) == 1
            log.warning("a pack of %d rows failed: %s", len(rows), error, exc_info=is_alone)
            failure = _failure(error)
            if is_out_of_memory(error) and not is_alone:
                self._too_large(sum(queued.num_tokens for queued in rows))
            # What the failed pass had computed so far hangs on its frames, and would be there beside the halves.
            traceback.clear_frames(error.__traceback__)
        if is_alone:
            return [failure]
        middle = len(rows) // 2
        halves = (rows[:middle], rows[middle:])
        return [outcome for half in halves for outcome in self._outcomes(self.launch(half, flight.adapter_of))]


def _pack_row(queued: QueuedRow, adapter_of: AdapterOf) -> PackRow:
    adapter = None if queued.digest is None else adapter_of(queued.digest)
    return PackRow(queued.work.row, adapter, is_exact=queued.work.is_exact)


def _finite(logits: Logits) -> Logits | RowFailure:
    if np.isfinite(logits).all():
        return logits
    return RowFailure(
        NonfiniteOutput.code,
        "the adapter's output is not finite for this input: check the adapter, or serve with --dtype float32",
    )


def _failure(error: Exception) -> RowFailure:
    if is_out_of_memory(error):
        return RowFailure(
            ServerOverloaded.code,
            "the engine's memory does not suffice for this row alone: send a shorter input, or lower resident_bytes",
        )
    kind = type(error).__name__
    return RowFailure(InternalFault.code, f"this row could not be computed ({kind}): the server's log says more")


def _answer(queued: QueuedRow, outcome: Logits | RowFailure, started_at: float, compute_ms: float) -> RowDone:
    queue_ms = (started_at - queued.queued_at) * 1e3
    if isinstance(outcome, RowFailure):
        return RowDone(queued.work.row_id, failure=outcome, queue_ms=queue_ms, compute_ms=compute_ms)
    return RowDone(queued.work.row_id, logits=outcome, queue_ms=queue_ms, compute_ms=compute_ms)
