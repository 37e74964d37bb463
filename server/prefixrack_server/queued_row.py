"""A row in the engine's queue, and whose it is. Knows no order among rows and no tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from prefixrack_server.messages import RowWork


@dataclass(slots=True, eq=False)
class TenantQueue:
    """What one tenant has queued. `counter` is what it was given so far: tokens, divided by its weight.

    The heaps hold ready rows, and dead entries of rows that left otherwise; `by_age` has the same rows as
    `by_priority`. `ready_tokens` and `tokens_at` (by priority, waiting rows too) say how long a new row would wait.
    """

    tenant: str
    weight: float = 1.0
    counter: float = 0.0
    num_rows: int = 0
    num_tokens: int = 0
    num_ready: int = 0
    num_since_aged: int = 0
    has_turn: bool = False  # whether the order of turns has an entry for it
    tokens_at: dict[int, int] = field(default_factory=dict)
    by_priority: list[tuple[int, int, QueuedRow]] = field(default_factory=list)
    by_age: list[tuple[int, int, QueuedRow]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class QueuedRow:
    """A row in the queue. It is live until it is taken, cancelled, expired or refused."""

    work: RowWork
    order: int
    queued_at: float
    queue: TenantQueue
    is_ready: bool = False
    is_live: bool = True
    num_tokens: int = field(init=False)  # counted once: it is asked for a dozen times

    def __post_init__(self) -> None:
        self.num_tokens = len(self.work.row)

    @property
    def digest(self) -> str | None:
        return None if self.work.bundle is None else self.work.bundle.digest


def digests_of(rows: Iterable[QueuedRow]) -> Iterable[str]:
    """The digest of each row that has one, once per row."""
    return (row.digest for row in rows if row.digest is not None)
