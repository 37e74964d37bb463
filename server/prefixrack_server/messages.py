"""What front end and engine say to each other: plain picklable data, so that the engine can run in its own process.

No futures, no tensors, no names of adapters: work is bound to a digest before it gets here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from prefixrack.errors import NotReady
from prefixrack_adapters.rows import Row
from prefixrack_server.distributions import Distribution

NOTHING: Final = Distribution()
ResidencyState = Literal["absent", "host", "loading", "resident", "failed"]


@dataclass(frozen=True, slots=True)
class BundleRef:
    """One adapter version, and where its two files lie in the blob store (keys are the sha256 of the bytes)."""

    digest: str
    manifest_sha256: str
    tensors_sha256: str


class RowWork(NamedTuple):
    """One row to compute. `bundle` None means the bare backbone with no head: its answer is the hidden states.

    `deadline` is in seconds of `time.monotonic()`; a row past it is answered with `deadline_exceeded`, uncomputed.
    Lower `priority` runs first, among the rows of its `tenant`; tenants get their parts of a busy engine by `weight`.
    `is_exact`: with the original weights, where those in use are in int8.
    """

    row_id: int
    row: Row
    bundle: BundleRef | None
    deadline: float | None = None
    priority: int = 0
    tenant: str = ""
    weight: float = 1.0
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class RowFailure:
    """`retry_after_s` is there where the row was refused because of what else is queued: it may be sent again then."""

    code: str
    detail: str
    retry_after_s: float | None = None


STOPPING = RowFailure(NotReady.code, "the engine is stopping: send it again to another replica or a moment later")


class RowDone(NamedTuple):
    """The one answer to a `RowWork`: logits (float32, [num_outputs] or [row_len, num_outputs]) or a failure.

    `queue_ms` is the wait before the pack, `compute_ms` the time of the whole pack that held the row.
    """

    row_id: int
    logits: NDArray[np.float32] | None = None
    failure: RowFailure | None = None
    queue_ms: float = 0.0
    compute_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for health checks and metrics. `heartbeat` is the `time.monotonic()` of the last loop turn, which is
    one clock for all processes of a machine."""

    ready: bool
    heartbeat: float
    num_queued_rows: int
    num_queued_tokens: int
    num_resident: int
    resident_bytes: int
    budget_bytes: int
    num_packs: int
    num_rows: int
    num_tokens: int
    num_loads: int
    num_evictions: int
    num_failed_loads: int
    host_bytes: int
    host_budget_bytes: int
    num_host_hits: int
    pack_rows: Distribution = NOTHING
    pack_tokens: Distribution = NOTHING
    pack_seconds: Distribution = NOTHING
    queue_seconds: Distribution = NOTHING
    tokens_per_s: float = 0.0  # of full packs; 0 as long as it is not known
    num_expired: int = 0  # rows whose deadline passed in the queue: never computed
    num_late: int = 0  # rows whose pack began after their deadline


class Engine(Protocol):
    """Computes rows. All methods but `stop` may be called from the event loop's thread and return at once."""

    def start(self, deliver: Callable[[Sequence[RowDone]], None]) -> None:
        """Start working. `deliver` is called from some thread: once per pack with finished rows, and for rows that are
        refused."""

    def submit(self, work: Sequence[RowWork]) -> None:
        """Queue rows; each gets exactly one `RowDone`, unless it was cancelled first."""

    def cancel(self, row_ids: Sequence[int]) -> None:
        """The callers of these rows have left: skip them where they are not yet computed."""

    def keep_resident(self, bundle: BundleRef, keep: bool) -> None:
        """Load this version and hold it on the device, or let it be evicted again."""

    def forget(self, digest: str) -> None:
        """No version has this digest any more: free its memory when its last row is done. Kept ones stay."""

    async def residency(self, digest: str) -> ResidencyState: ...

    def stats(self) -> EngineStats: ...

    def hurry(self) -> None:
        """Let `stop` finish nothing but the pack that is being computed."""

    def stop(self) -> None:
        """Finish what is queued, then stop. Rows that cannot be finished are answered with `not_ready`. It waits for
        all this: call it from a thread that the event loop does not need."""
