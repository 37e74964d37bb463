"""Between event loop and engine: row ids, futures, permits, deadlines, callers who leave. Knows no HTTP and no tensors.

Every accepted submission gets exactly one answer: all its rows, or one named fault.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.requests import ClientDisconnect

from prefixrack.errors import DeadlineExceeded, Fault, NotReady, ServerOverloaded
from prefixrack_adapters.rows import Row
from prefixrack_server.admission import retry_seconds
from prefixrack_server.messages import BundleRef, Engine, RowDone, RowWork
from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.spans import Caller, Spans

POLL_S = 0.5  # how often waiting requests look whether their callers are still there
# In so many parts, of so many callers at most: thousands wait in an overload, and to look at all of them at once would
# stop everything else for a tenth of a second. Then a round takes longer.
LOOKS_PER_POLL = 16
CALLERS_PER_LOOK = 16

IsGone = Callable[[], Awaitable[bool]]


class BoundRow(NamedTuple):
    """A row and the adapter version that it is for."""

    row: Row
    bundle: BundleRef | None
    is_exact: bool = False


class Payer(NamedTuple):
    """Whose part of the engine rows take, and how large a part that is beside those of other tenants."""

    tenant: str
    weight: float = 1.0


class Ticket:
    """One submission: its rows have consecutive ids. Done when the last of them is answered, or none will be."""

    __slots__ = ("_waker", "answers", "caller", "deadline", "fault", "first_id", "num_missing", "num_tokens")

    def __init__(
        self, first_id: int, rows: Sequence[BoundRow], deadline: float | None, caller: Caller | None = None
    ) -> None:
        self.first_id = first_id
        self.caller = caller
        self.deadline = deadline
        self.num_tokens = sum(len(bound.row) for bound in rows)
        self.num_missing = len(rows)
        self.answers: list[RowDone | None] = [None] * len(rows)
        self.fault: Fault | None = None
        self._waker: asyncio.Future[None] | None = None

    @property
    def row_ids(self) -> range:
        return range(self.first_id, self.first_id + len(self.answers))

    @property
    def is_done(self) -> bool:
        return not self.num_missing or self.fault is not None

    async def turn(self, patience_s: float | None) -> None:
        """Until the ticket is done, it is time to look around, or `patience_s` are over."""
        loop = asyncio.get_running_loop()
        self._waker = waker = loop.create_future()
        timer = None if patience_s is None else loop.call_later(patience_s, _wake, waker)
        try:
            await waker
        finally:
            if timer is not None:
                timer.cancel()

    def put(self, answer: RowDone) -> None:
        self.answers[answer.row_id - self.first_id] = answer
        self.num_missing -= 1
        if not self.num_missing:
            self.wake()

    def fail(self, fault: Fault) -> None:
        self.fault = fault
        self.wake()

    def wake(self) -> None:
        if self._waker is not None:
            _wake(self._waker)


def _wake(waker: asyncio.Future[None]) -> None:
    if not waker.done():
        waker.set_result(None)


class Dispatcher:
    """Lives as long as the process. All methods belong to the event loop's thread, except `_deliver`.

    The permits are the server's: its front ends share them through the noticeboard. Two that take some at the same
    instant may together go over the limit by one request.
    """

    def __init__(
        self, engine: Engine, max_rows: int, max_tokens: int, noticeboard: Noticeboard, spans: Spans | None = None
    ) -> None:
        self._engine = engine
        self.spans = spans or Spans()
        self._noticeboard = noticeboard
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._next_id = 0
        self._tickets: dict[int, Ticket] = {}
        self._unsent: list[RowWork] = []
        self._is_looking_around = False
        self._num_looks = 0
        self._to_look_at: list[Ticket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.num_tokens = 0

    @property
    def num_rows(self) -> int:
        """Rows accepted and not yet answered."""
        return len(self._tickets)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine.start(self._deliver)

    async def stop(self) -> None:
        """Let the engine finish what is queued; whatever it leaves unanswered is answered `not_ready`."""
        self._send()
        await asyncio.to_thread(self._engine.stop)
        await asyncio.sleep(0)  # the last deliveries were put into the loop's queue before this point
        for ticket in set(self._tickets.values()):
            ticket.fail(NotReady("the server has stopped: send the request to another replica"))
        self._tickets.clear()
        self.num_tokens = 0
        self._post()

    def submit(
        self, rows: Sequence[BoundRow], payer: Payer, deadline: float | None = None, priority: int = 0
    ) -> Ticket:
        """Take rows for the engine. Raises ServerOverloaded.

        They go to it at the end of the event loop's turn, with those of the other requests that came in together: they
        can share a pack, and the engine is woken once.
        """
        self._check_permits(rows)
        ticket = Ticket(self._next_id, rows, deadline, self.spans.caller())
        self._next_id += len(rows)
        if not rows:
            return ticket
        self._tickets.update(dict.fromkeys(ticket.row_ids, ticket))
        self.num_tokens += ticket.num_tokens
        self._post()
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        if not self._is_looking_around:
            self._look_around_later()
        self._unsent += [
            RowWork(row_id, bound.row, bound.bundle, deadline, priority, *payer, is_exact=bound.is_exact)
            for row_id, bound in zip(ticket.row_ids, rows, strict=True)
        ]
        return ticket

    def _look_around_later(self) -> None:
        self._is_looking_around = True
        asyncio.get_running_loop().call_later(POLL_S / LOOKS_PER_POLL, self._look_around)

    def _look_around(self) -> None:
        """One timer for all that wait: a timer for each would be a part of the cost of those answered sooner."""
        self._is_looking_around = False
        self._num_looks += 1
        if not self._num_looks % LOOKS_PER_POLL:
            self._begin_round()
        for ticket in self._to_look_at[:CALLERS_PER_LOOK]:
            ticket.wake()
        del self._to_look_at[:CALLERS_PER_LOOK]
        if self._tickets:
            self._look_around_later()
        else:
            self._to_look_at.clear()

    def _begin_round(self) -> None:
        """Whose time is over before the next round sees to that itself; the callers are looked at in turn."""
        waiting = set(self._tickets.values())
        soon = time.monotonic() + POLL_S
        for ticket in waiting:
            if ticket.deadline is not None and ticket.deadline < soon:
                ticket.wake()
        if not self._to_look_at:
            self._to_look_at += waiting

    def _send(self) -> None:
        work = [row_work for row_work in self._unsent if row_work.row_id in self._tickets]  # not cancelled since
        self._unsent.clear()
        if work:
            self._engine.submit(work)

    async def wait(self, ticket: Ticket, is_gone: IsGone | None = None) -> list[RowDone]:
        """The answers of a ticket in the order of its rows. Raises DeadlineExceeded, or ClientDisconnect.

        However the wait ends, the rows are no longer this ticket's afterwards: unanswered ones are cancelled.
        """
        try:
            while not ticket.is_done:
                await ticket.turn(_patience(ticket))
                if not ticket.is_done:
                    await _check_caller(ticket, is_gone)
            if ticket.fault is not None:
                raise ticket.fault
        finally:
            self.cancel(ticket)
        return [answer for answer in ticket.answers if answer is not None]

    def cancel(self, ticket: Ticket) -> None:
        """Forget a ticket. Its rows that are not yet computed never will be."""
        missing = [row_id for row_id in ticket.row_ids if self._tickets.pop(row_id, None) is not None]
        if not missing:
            return
        self.num_tokens -= ticket.num_tokens
        self._post()
        self._engine.cancel(missing)

    def _check_permits(self, rows: Sequence[BoundRow]) -> None:
        waiting_rows, waiting_tokens = self._noticeboard.num_rows, self._noticeboard.num_tokens
        if not waiting_rows:
            return  # an idle server takes any request that the limits of a request let through
        num_tokens = sum(len(bound.row) for bound in rows)
        if waiting_rows + len(rows) > self._max_rows or waiting_tokens + num_tokens > self._max_tokens:
            raise ServerOverloaded(
                f"{waiting_rows} rows with {waiting_tokens} tokens are waiting, allowed are {self._max_rows} rows "
                f"and {self._max_tokens} tokens: try again later",
                retry_after_s=retry_seconds(
                    waiting_tokens + num_tokens - self._max_tokens, self._engine.stats().tokens_per_s
                ),
            )

    def _post(self) -> None:
        self._noticeboard.post(self.num_rows, self.num_tokens)

    def _deliver(self, answers: Sequence[RowDone]) -> None:
        assert self._loop is not None, "the engine delivered before it was started"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, answers)

    def _settle(self, answers: Sequence[RowDone]) -> None:
        shares: list[tuple[Ticket, RowDone]] = []
        for answer in answers:
            ticket = self._tickets.pop(answer.row_id, None)
            if ticket is None:
                continue  # cancelled while it was being computed
            ticket.put(answer)
            shares.append((ticket, answer))
            if not ticket.num_missing:
                self.num_tokens -= ticket.num_tokens
        self._post()
        self.spans.packed(shares)


def _patience(ticket: Ticket) -> float | None:
    """Seconds until the ticket's time is over, where that is before everybody looks around."""
    if ticket.deadline is None:
        return None
    left_s = max(0.0, ticket.deadline - time.monotonic())
    return left_s if left_s < POLL_S else None


async def _check_caller(ticket: Ticket, is_gone: IsGone | None) -> None:
    if ticket.deadline is not None and time.monotonic() >= ticket.deadline:
        raise DeadlineExceeded(
            "the request's time was over before all of its rows were computed: raise X-Request-Timeout-Ms, "
            "send fewer inputs, or try again later"
        )
    if is_gone is not None and await is_gone():
        raise ClientDisconnect
