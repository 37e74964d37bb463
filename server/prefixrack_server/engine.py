"""The engine: a thread that turns queued rows into logits. Knows tensors and digests; no tenants, no names, no HTTP."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Protocol

import torch

from prefixrack.errors import DeadlineExceeded, Fault
from prefixrack_adapters.adapter import Adapter
from prefixrack_server.admission import Admission, QueueLimits
from prefixrack_server.allocator import FreedMemory
from prefixrack_server.daemon_threads import DaemonThreads
from prefixrack_server.distributions import PACK_ROWS, PACK_SECONDS, PACK_TOKENS, QUEUE_SECONDS, Tally
from prefixrack_server.engine_config import EngineConfig
from prefixrack_server.fair_line import FairJobs
from prefixrack_server.host_tier import HostTier
from prefixrack_server.loader import AdapterLoader, AdapterSource, Device
from prefixrack_server.messages import STOPPING, BundleRef, EngineStats, ResidencyState, RowDone, RowFailure, RowWork
from prefixrack_server.pack_runner import Computes, Flight, PackRunner
from prefixrack_server.pack_size import measured_size
from prefixrack_server.queued_row import QueuedRow, digests_of
from prefixrack_server.residency import Demand, Loader, Residency
from prefixrack_server.scheduler import NO_ROWS, Scheduler, Selection

log = logging.getLogger(__name__)

Deliver = Callable[[Sequence[RowDone]], None]

# An idle engine turns this often, for the heartbeat alone: work wakes it at once.
IDLE_TURN_S = 0.5
# Fetchers wait for disks and hold no tensors: so many that some that hang leave others.
NUM_FETCHERS = 32
# A loader that computes while the interpreter ends could crash it; one that hangs is left behind.
LOADERS_END_S = 2.0
# Packs are not made smaller than this when memory runs out: it is not the activations then.
MIN_PACK_TOKENS = 64

TOO_LATE = RowFailure(
    DeadlineExceeded.code, "the row was not computed before its deadline: allow more time or send less at once"
)


def set_threads(num_threads: int) -> None:
    """How many threads this thread computes with, whatever others set for themselves later.

    Torch takes over its process-wide number once per thread, at first use: the second call is that use.
    """
    torch.set_num_threads(num_threads)
    torch.get_num_threads()


def _request_of(work: RowWork) -> tuple[str, float | None, int]:
    """Neighbours with the same are, as far as can be seen, rows of one request."""
    return work.tenant, work.deadline, work.priority


def loader_threads(num_loaders: int) -> DaemonThreads:
    """Threads that copy tensors alone: each thread that computes in parallel has OpenMP threads of its own, and with
    more of them than cores every pack waits for wake-ups (a fifth slower in our measurements)."""
    return DaemonThreads(num_loaders, "prefixrack-loader", partial(set_threads, 1))


class EngineBackbone(Computes, Device, Protocol):
    """What the engine must know of a `prefixrack_adapters.Backbone`."""


class EngineThread:
    """`messages.Engine` in a thread of this process.

    One lock guards scheduler and residency together, and one condition on it wakes the thread. Answers that need no
    pack (expired, failed loads) are gathered in `_answers` and handed out at the next turn. `deliver` runs in the
    engine's thread; `submit` calls it in its own for rows that it refuses.
    """

    def __init__(
        self,
        backbone: EngineBackbone,
        source: AdapterSource,
        config: EngineConfig,
        *,
        queue_limits: QueueLimits | None = None,
        loader: Loader[Adapter] | None = None,
        threads: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backbone = backbone
        self._config = config
        self._clock = clock
        self._wake = threading.Condition()
        self._is_warm = config.max_pack_tokens != "auto"
        max_pack_tokens = config.first_pack_tokens
        self._scheduler = Scheduler(max_pack_tokens, config.pack_rows(backbone.is_asynchronous))
        num_threads = config.num_threads or torch.get_num_threads()
        shared_tokens = config.shared_tokens(backbone.is_asynchronous, num_threads, backbone.dtype.itemsize)
        deep_tokens = config.deep_tokens(backbone.is_asynchronous, max_pack_tokens)
        self._admission = Admission(self._scheduler, queue_limits or QueueLimits(), shared_tokens, deep_tokens)
        self._runner = PackRunner(backbone, clock, self._shrink)
        self._loaders = loader_threads(config.num_loaders)
        self._host: HostTier[Adapter] = HostTier(config.host_budget_bytes(backbone.is_asynchronous))
        self._residency: Residency[Adapter] = Residency(
            loader or AdapterLoader(source, backbone, self._host),
            self,
            self._wake,
            clock,
            FairJobs(threads or DaemonThreads(NUM_FETCHERS, "prefixrack-fetcher"), NUM_FETCHERS, self._wake),
            FairJobs(threads or self._loaders, config.num_loaders, self._wake),
            budget_bytes=config.resident_bytes,
            retry_after_s=config.retry_load_after_s,
        )
        self._thread = threading.Thread(target=self._run, name="prefixrack-engine", daemon=True)
        self._freed_memory = FreedMemory()
        self._answers: list[RowDone] = []
        self._under_way: list[Flight] = []
        self._deliver: Deliver | None = None
        self._stop_by: float | None = None
        self._heartbeat = self._landed_at = clock()
        self._num_packs = 0
        self._num_rows = 0
        self._num_tokens = 0
        self._num_expired = 0
        self._num_late = 0
        self._pack_rows = Tally(PACK_ROWS)
        self._pack_tokens = Tally(PACK_TOKENS)
        self._pack_seconds = Tally(PACK_SECONDS)
        self._queue_seconds = Tally(QUEUE_SECONDS)

    def step(self) -> None:
        """One turn: take a pack, its adapters pinned, begin it; land what is done, unpin, hand out the answers."""
        pack = self._take()
        self._hand_out(self._early_answers())
        for flight in self._launch(pack):
            answers = self._land(flight)
            self._unpin(flight.rows)
            self._hand_out(answers)

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._thread.start()

    def submit(self, work: Sequence[RowWork]) -> None:
        """Refusals are handed out at once, by the caller's thread: a pack that is being computed holds none up."""
        checked = {row_work.row_id: self._check(row_work) for row_work in work}
        refused: list[RowDone] = []
        with self._wake:
            for _, rows in itertools.groupby(work, _request_of):
                request = list(rows)
                refusal = STOPPING if self._stop_by is not None else self._admission.refusal(request, self._clock())
                if refusal is not None:
                    refused += [RowDone(row_work.row_id, failure=refusal) for row_work in request]
                    continue
                for row_work in request:
                    self._place(row_work, checked[row_work.row_id])
            self._residency.start_loads()
            self._wake.notify()
        self._hand_out(refused)

    def cancel(self, row_ids: Sequence[int]) -> None:
        with self._wake:
            for row_id in row_ids:
                queued = self._scheduler.cancel(row_id)
                if queued is not None:
                    self._unpin_ready([queued])
            self._wake.notify()

    def keep_resident(self, bundle: BundleRef, keep: bool) -> None:
        with self._wake:
            if self._stop_by is not None:
                return
            if keep:
                self._residency.keep(bundle)
            else:
                self._residency.unkeep(bundle.digest)

    def forget(self, digest: str) -> None:
        with self._wake:
            self._residency.forget(digest)

    async def residency(self, digest: str) -> ResidencyState:
        with self._wake:
            state = self._residency.state(digest)
        return "host" if state == "absent" and self._host.holds(digest) else state

    def stats(self) -> EngineStats:
        with self._wake:
            held, host = self._residency.stats(), self._host.stats()
            return EngineStats(
                ready=self._thread.is_alive() and self._is_warm and self._stop_by is None,
                heartbeat=self._heartbeat,
                num_queued_rows=self._scheduler.num_rows,
                num_queued_tokens=self._scheduler.num_tokens,
                num_resident=held.num_resident,
                resident_bytes=held.held_bytes,
                budget_bytes=self._config.resident_bytes,
                num_packs=self._num_packs,
                num_rows=self._num_rows,
                num_tokens=self._num_tokens,
                num_loads=held.num_loads,
                num_evictions=held.num_evictions,
                num_failed_loads=held.num_failed_loads,
                host_bytes=host.held_bytes,
                host_budget_bytes=host.budget_bytes,
                num_host_hits=host.num_hits,
                pack_rows=self._pack_rows.snapshot(),
                pack_tokens=self._pack_tokens.snapshot(),
                pack_seconds=self._pack_seconds.snapshot(),
                queue_seconds=self._queue_seconds.snapshot(),
                tokens_per_s=self._admission.speed.tokens_per_s,
                num_expired=self._num_expired,
                num_late=self._num_late,
            )

    def hurry(self) -> None:
        with self._wake:
            self._stop_by = self._clock()
            self._wake.notify()

    def stop(self) -> None:
        """Finish what is queued, for `drain_timeout_s` at most, then stop. Returns when the thread has ended."""
        with self._wake:
            if self._stop_by is None:
                self._stop_by = self._clock() + self._config.drain_timeout_s
            self._wake.notify()
        if self._thread.ident is None:
            self._end()
        else:
            self._thread.join()
        self._loaders.join(LOADERS_END_S)

    def is_awaited(self, digest: str) -> bool:
        return self._scheduler.is_awaited(digest)

    def admit(self, digest: str) -> None:
        """Residency says, under the lock: the adapter is there. Its rows become ready, and each holds a pin."""
        self._residency.pin(digest, self._scheduler.release(digest))
        self._wake.notify()

    def refuse(self, digest: str, failure: RowFailure) -> None:
        """Residency says, under the lock: the adapter cannot be had. Its rows are answered with the reason."""
        self._answers += self._failed(self._scheduler.refuse(digest), failure)
        self._wake.notify()

    def _run(self) -> None:
        try:
            if self._config.num_threads is not None:
                set_threads(self._config.num_threads)
            if not self._is_warm:
                self._warm_up()
            while self._has_work():
                self.step()
                self._freed_memory.look(self._clock())
            for flight in self._launch(NO_ROWS):
                self._hand_out(self._land(flight))
        finally:
            self._end()

    def _warm_up(self) -> None:
        """In this thread, whose compute threads are those of the packs: find out how large these should be."""
        max_rows = self._config.pack_rows(self._backbone.is_asynchronous)
        size = measured_size(self._backbone, max_rows, self._clock, self._goes_on)
        with self._wake:
            self._scheduler.max_pack_tokens = size
            self._admission.deep_tokens = self._config.deep_tokens(self._backbone.is_asynchronous, size)
            self._is_warm = True

    def _goes_on(self) -> bool:
        with self._wake:
            self._heartbeat = self._clock()
            return self._stop_by is None

    def _has_work(self) -> bool:
        """Sleep until there is something to do. False once the engine has stopped."""
        with self._wake:
            while True:
                self._heartbeat = now = self._clock()
                if self._can_step(now):
                    return not self._is_due(self._stop_by, now)
                if self._stop_by is not None and (not self._scheduler.num_rows or now >= self._stop_by):
                    return False
                self._wake.wait(self._sleep_s(now))

    def _can_step(self, now: float) -> bool:
        is_late = self._is_due(self._scheduler.next_deadline(), now)
        return bool(self._scheduler.num_ready or self._answers or self._under_way) or is_late

    def _sleep_s(self, now: float) -> float:
        alarms = [alarm - now for alarm in (self._scheduler.next_deadline(), self._stop_by) if alarm is not None]
        return max(0.0, min([IDLE_TURN_S, *alarms]))

    @staticmethod
    def _is_due(alarm: float | None, now: float) -> bool:
        return alarm is not None and now >= alarm

    def _take(self) -> Selection:
        """The rows of the next pack; the pin that each ready row holds goes over to the pack."""
        with self._wake:
            selection = self._scheduler.take(self._clock())
            self._answers += self._failed(selection.expired, TOO_LATE)
            self._num_expired += len(selection.expired)
            self._unpin_ready(selection.expired)
            self._admission.begin(sum(queued.num_tokens for queued in selection.rows), self._clock())
            return selection

    def _early_answers(self) -> list[RowDone]:
        with self._wake:
            answers, self._answers = self._answers, []
            return answers

    def _launch(self, pack: Selection) -> list[Flight]:
        """Begin a pack; the flights to land now. Where packs are computed on the side, that is the one before.

        So one pack is being prepared while another is computed, and a GPU never waits for the next.
        """
        adapter_of = self._residency.adapter
        begun = [self._runner.launch(pack.rows, adapter_of, is_full=pack.is_full)] if pack.rows else []
        if not self._backbone.is_asynchronous:
            return begun
        before, self._under_way = self._under_way, begun
        return before

    def _land(self, flight: Flight) -> list[RowDone]:
        answers = self._runner.land(flight)
        began_at, self._landed_at = max(flight.started_at, self._landed_at), self._clock()
        num_tokens = sum(queued.num_tokens for queued in flight.rows)
        with self._wake:  # whoever asks for `stats` sees all of a pack or nothing of it
            self._admission.end(num_tokens, self._landed_at - began_at, self._landed_at, is_full=flight.is_full)
            self._count(flight, answers, num_tokens, began_at)
        return answers

    def _count(self, flight: Flight, answers: Sequence[RowDone], num_tokens: int, began_at: float) -> None:
        self._num_packs += 1
        self._num_rows += len(flight.rows)
        self._num_tokens += num_tokens
        deadlines = (queued.work.deadline for queued in flight.rows)
        self._num_late += sum(deadline is not None and deadline < began_at for deadline in deadlines)
        self._pack_rows.add(len(flight.rows))
        self._pack_tokens.add(num_tokens)
        self._pack_seconds.add(answers[0].compute_ms / 1e3)
        for answer in answers:
            self._queue_seconds.add(answer.queue_ms / 1e3)

    def _shrink(self, num_tokens: int) -> None:
        """A pack of so many tokens was too large for the memory there is: packs have half of that from now on."""
        with self._wake:
            size = max(MIN_PACK_TOKENS, num_tokens // 2)
            if self._scheduler.afford(size):
                log.warning("memory did not suffice for %d tokens: packs have %d from now on", num_tokens, size)

    def _unpin(self, rows: Iterable[QueuedRow]) -> None:
        with self._wake:
            for digest in digests_of(rows):
                self._residency.unpin(digest)

    def _unpin_ready(self, removed: Iterable[QueuedRow]) -> None:
        self._unpin(queued for queued in removed if queued.is_ready)

    def _hand_out(self, answers: Sequence[RowDone]) -> None:
        if not answers:
            return
        assert self._deliver is not None, "start() comes before the first answer"
        try:
            self._deliver(answers)
        except Exception:  # the receiver's mistake; the next pack's callers must still get theirs
            log.exception("delivering %d answers failed", len(answers))

    def _check(self, work: RowWork) -> RowFailure | None:
        try:
            self._backbone.check(work.row)
        except Fault as fault:
            return RowFailure(fault.code, fault.detail)
        return None

    def _place(self, work: RowWork, failure: RowFailure | None) -> None:
        """Under the lock: into the ready rows, into its adapter's line, or straight to its answer."""
        outcome = failure or self._demand(work)
        if isinstance(outcome, RowFailure):
            self._answers.append(RowDone(work.row_id, failure=outcome))
        elif outcome == "ready":
            self._scheduler.add_ready(work, self._clock())
        else:
            self._scheduler.add_waiting(work, self._clock())

    def _demand(self, work: RowWork) -> Demand:
        return "ready" if work.bundle is None else self._residency.demand(work.bundle, work.tenant)

    def _failed(self, rows: Iterable[QueuedRow], failure: RowFailure) -> list[RowDone]:
        now = self._clock()
        return [
            RowDone(queued.work.row_id, failure=failure, queue_ms=(now - queued.queued_at) * 1e3) for queued in rows
        ]

    def _end(self) -> None:
        """Nothing is computed after this: whatever is still queued is told so."""
        with self._wake:
            self._stop_by = self._stop_by if self._stop_by is not None else self._clock()
            self._residency.close()
            self._answers += self._failed(self._scheduler.drain(), STOPPING)
            answers = self._early_answers()
        self._hand_out(answers)
