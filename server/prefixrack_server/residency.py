"""Residency: which adapters are on the device, within a budget of bytes. Knows digests; no torch, no rows, no names.

The life of an adapter: absent → (fetched and measured) → in line for room → loading → resident → evicted, or failed.
Fetching, the slow part, needs no room on the device and has threads of its own, many: so it holds up nobody. What is at
hand, in host memory, is not fetched, and several of these are loaded together.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from prefixrack.errors import BundleTooLarge, Fault, InternalFault, ServerOverloaded
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.eviction import EvictionOrder
from prefixrack_server.fair_line import FairBatches, FairJobs, FairLine
from prefixrack_server.messages import BundleRef, ResidencyState, RowFailure

log = logging.getLogger(__name__)

# `ready`: resident, and pinned once for the row. `wait`: `Waiters.admit` or `refuse` follows. A failure: the last load
# failed a moment ago, and this is why.
Demand = Literal["ready", "wait"] | RowFailure
# Whose turn it is to load what an administrator keeps resident.
NOBODY: Final = ""
# So many of those at hand are loaded together: they share what a load costs beside its copy, and each waits for all.
MAX_TOGETHER: Final = 16


@dataclass(frozen=True, slots=True)
class Fetched:
    """The files of one version on this machine, known to be the uploaded ones. `size_bytes`: on the device.

    `tensors_path` is None where no file was looked at, because the adapter is in host memory.
    """

    bundle: BundleRef
    manifest: Manifest
    tensors_path: Path | None
    size_bytes: int


class Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T")
A = TypeVar("A", bound=Sized)
A_co = TypeVar("A_co", bound=Sized, covariant=True)


class Loader(Protocol[A_co]):
    """`fetch` and the loads run in threads of their own and raise a `Fault` for a bundle that cannot be used. The other
    calls come with the lock held: a look, and what becomes of an adapter."""

    def at_hand(self, bundle: BundleRef) -> Fetched | None:
        """What `fetch` would give, where nothing need be fetched; its size is the true one."""

    def fetch(self, bundle: BundleRef) -> Fetched:
        """Whatever may be slow: disks, networks. Leaves no tensors in memory."""

    def load(self, fetched: Fetched) -> A_co: ...

    def load_at_hand(self, digests: Sequence[str]) -> Mapping[str, A_co]:
        """Several together, by digest. One that is no longer at hand is left out: the others do not wait for its files.

        What goes wrong with any of them may be raised: each is loaded alone then.
        """

    def evicted(self, digest: str) -> None:
        """It has left the device, and may well be wanted again."""

    def forget(self, digest: str) -> None:
        """Nobody will want it any more."""


class Waiters(Protocol):
    """Those who wait for adapters. Called with the lock held."""

    def is_awaited(self, digest: str) -> bool: ...

    def admit(self, digest: str) -> None:
        """The adapter is resident: everyone who waits for it must pin it now."""

    def refuse(self, digest: str, failure: RowFailure) -> None: ...


@dataclass(frozen=True, slots=True)
class ResidencyStats:
    """`held_bytes` counts what is resident and what is being loaded; it never exceeds the budget."""

    num_resident: int
    held_bytes: int
    num_loads: int
    num_evictions: int
    num_failed_loads: int


@dataclass(slots=True, eq=False)
class Entry(Generic[A]):
    bundle: BundleRef
    tenant: str  # the last that used it, in whose share of the room it is; while it loads the first that wanted it
    state: ResidencyState = "loading"
    size_bytes: int = 0
    is_holding_room: bool = False
    num_pins: int = 0
    is_forgotten: bool = False
    fetched: Fetched | None = None
    adapter: A | None = None
    failure: RowFailure | None = None
    retry_at: float = 0.0

    @property
    def digest(self) -> str:
        return self.bundle.digest

    @property
    def is_at_hand(self) -> bool:
        return self.fetched is not None and self.fetched.tensors_path is None


class Residency(Generic[A]):
    """Eviction under a hard budget, in an order that knows tenants' shares, with pins, and one line for room.

    `lock` is the caller's own, reentrant: rows and adapters change together. It is held for bookkeeping only; files
    are read in `fetchers` and adapters are made in `loaders`, outside it. Both belong to the residency from here on.

    Tenants take turns with what they load, at each step. While something stands in the line for room, `demand` sends
    everyone to the end of its tenant's part, those of resident adapters too, once per digest. So pins run out, the head
    gets its room, and nobody waits for ever though the working set exceeds the budget. The head can always be served in
    the end: pinned adapters are computed and unpinned, loading ones become resident, and one that would not fit beside
    the kept ones fails at once.
    """

    def __init__(
        self,
        loader: Loader[A],
        waiters: Waiters,
        lock: AbstractContextManager[Any],
        clock: Callable[[], float],
        fetchers: FairJobs,
        loaders: FairJobs,
        *,
        budget_bytes: int,
        retry_after_s: float,
    ) -> None:
        self._loader = loader
        self._waiters = waiters
        self._lock = lock
        self._clock = clock
        self._budget_bytes = budget_bytes
        self._retry_after_s = retry_after_s
        self._fetchers = fetchers
        self._loaders = loaders
        self._is_closed = False
        self._entries: dict[str, Entry[A]] = {}
        self._idle: EvictionOrder[str] = EvictionOrder(budget_bytes, clock)
        self._at_hand: FairBatches[Entry[A]] = FairBatches(loaders, lock, self._load_together, MAX_TOGETHER)
        self._line: FairLine[str, Entry[A]] = FairLine()
        self._is_head_waiting = False
        self._failed: OrderedDict[str, Entry[A]] = OrderedDict()  # by time of failure
        self._kept: set[str] = set()
        self._held_bytes = 0
        self._kept_bytes = 0
        self._num_resident = 0
        self._num_loads = 0
        self._num_evictions = 0
        self._num_failed_loads = 0

    def demand(self, bundle: BundleRef, tenant: str) -> Demand:
        """A row of this tenant wants this version. `start_loads` comes next, once such rows are among the waiters."""
        entry = self._entries.get(bundle.digest)
        if entry is None or self._is_retry_due(entry):
            self._start(bundle, tenant)
            return "wait"
        if entry.failure is not None:
            return entry.failure
        return self._demand_resident(entry, tenant) if entry.state == "resident" else "wait"

    def start_loads(self) -> None:
        """Load what was demanded and is at hand. Not before: whom nobody awaits is given no room, and resident adapters
        that are demanded with it are pinned before any of them makes room."""
        self._serve_line()

    def pin(self, digest: str, num_pins: int) -> None:
        """Hold a resident adapter for this many rows."""
        entry = self._entries[digest]
        assert entry.state == "resident", f"{digest} is {entry.state}, only a resident adapter can be pinned"
        if num_pins:
            entry.num_pins += num_pins
            self._idle.discard(digest)

    def unpin(self, digest: str) -> None:
        entry = self._entries[digest]
        assert entry.num_pins > 0, f"{digest} has no pin left"
        entry.num_pins -= 1
        self._rest(entry)

    def adapter(self, digest: str) -> A:
        """The adapter of a pinned digest."""
        entry = self._entries[digest]
        assert entry.adapter is not None, f"{digest} is {entry.state}: pin it first"
        return entry.adapter

    def keep(self, bundle: BundleRef) -> None:
        """Load this version and never evict it, until `unkeep`."""
        entry = self._entries.get(bundle.digest)
        if entry is None or entry.state == "failed":
            self._start(bundle, NOBODY)
        self._move(bundle.digest, self._kept.add)
        self._idle.discard(bundle.digest)
        self._serve_line()

    def unkeep(self, digest: str) -> None:
        if digest not in self._kept:
            return
        self._move(digest, self._kept.remove)
        entry = self._entries.get(digest)
        if entry is not None:
            self._rest(entry)

    def forget(self, digest: str) -> None:
        """Evict this version as soon as nobody holds it, whatever room there is. Kept ones stay."""
        self._loader.forget(digest)
        entry = self._entries.get(digest)
        if entry is None:
            return
        entry.is_forgotten = True
        if digest in self._idle:
            self._rest(entry)

    def state(self, digest: str) -> ResidencyState:
        entry = self._entries.get(digest)
        return "absent" if entry is None else entry.state

    def stats(self) -> ResidencyStats:
        return ResidencyStats(
            self._num_resident, self._held_bytes, self._num_loads, self._num_evictions, self._num_failed_loads
        )

    def close(self) -> None:
        """Start no more loads; those under way end unseen."""
        self._is_closed = True
        self._fetchers.close()
        self._at_hand.close()
        self._loaders.close()

    def _is_retry_due(self, entry: Entry[A]) -> bool:
        return entry.state == "failed" and self._clock() >= entry.retry_at

    def _demand_resident(self, entry: Entry[A], tenant: str) -> Demand:
        self._give_to(entry, tenant)
        if not self._is_head_waiting:
            self.pin(entry.digest, 1)
            return "ready"
        self._line.add(tenant, entry.digest, entry)
        if entry.digest in self._idle:
            self._idle.add(entry.digest, tenant)
        return "wait"

    def _give_to(self, entry: Entry[A], tenant: str) -> None:
        """From here on it is in this tenant's share."""
        if entry.tenant != tenant:
            self._count(entry, -entry.size_bytes)
            entry.tenant = tenant
            self._count(entry, entry.size_bytes)

    def _start(self, bundle: BundleRef, tenant: str) -> None:
        entry: Entry[A] = Entry(bundle, tenant)
        self._entries[bundle.digest] = entry
        self._failed.pop(bundle.digest, None)
        fetched = self._loader.at_hand(bundle)
        if fetched is None:
            self._fetchers.submit(tenant, lambda: self._fetch(entry))
        else:
            self._end_fetch(entry, fetched)

    def _fetch(self, entry: Entry[A]) -> None:
        """In a fetcher."""
        fetched = self._attempt(entry, lambda: self._loader.fetch(entry.bundle))
        if fetched is None:
            return
        with self._lock:
            self._end_fetch(entry, fetched)
            self._serve_line()

    def _end_fetch(self, entry: Entry[A], fetched: Fetched) -> None:
        entry.fetched = fetched
        self._line_up(entry, fetched.size_bytes)

    def _load(self, entry: Entry[A], fetched: Fetched) -> None:
        """In a loader, with room reserved for it."""
        adapter = self._attempt(entry, lambda: self._loader.load(fetched))
        if adapter is None:
            return
        with self._lock:
            if self._is_closed:
                return
            if self._resize(entry, adapter.size_bytes):
                self._settle(entry, adapter)
            else:
                self._line_up(entry, adapter.size_bytes)
                self._serve_line()

    def _load_together(self, entries: Sequence[Entry[A]]) -> None:
        """In a loader, with room reserved for each, by its true size. What is not loaded here is loaded alone."""
        adapters = self._attempt_together([entry.digest for entry in entries])
        with self._lock:
            if self._is_closed:
                return
            for entry in entries:
                adapter = adapters.get(entry.digest)
                if adapter is None:
                    self._submit_load(entry)
                else:
                    self._settle(entry, adapter)

    def _attempt_together(self, digests: Sequence[str]) -> Mapping[str, A]:
        try:
            return self._loader.load_at_hand(digests)
        except Exception:
            log.exception("loading %d adapters together failed: each is loaded alone", len(digests))
            return {}

    def _attempt(self, entry: Entry[A], work: Callable[[], T]) -> T | None:
        """Outside the lock. Whatever goes wrong is the answer of the rows that wait for this adapter."""
        try:
            return work()
        except Fault as fault:
            self._end_failed(entry, fault)
        except Exception as error:
            log.exception("loading adapter %s failed", entry.digest)
            kind = type(error).__name__
            self._end_failed(entry, InternalFault(f"loading the adapter failed ({kind}): the server's log says more"))
        return None

    def _settle(self, entry: Entry[A], adapter: A) -> None:
        entry.state, entry.adapter, entry.fetched = "resident", adapter, None
        self._num_resident += 1
        self._num_loads += 1
        self._waiters.admit(entry.digest)
        self._rest(entry)

    def _end_failed(self, entry: Entry[A], fault: Fault) -> None:
        with self._lock:
            self._fail(entry, fault)
            self._serve_line()

    def _fail(self, entry: Entry[A], fault: Fault) -> None:
        if self._is_closed:
            return
        self._release_room(entry)
        entry.state, entry.fetched = "failed", None
        entry.failure = RowFailure(fault.code, fault.detail)
        entry.retry_at = self._clock() + self._retry_after_s
        self._num_failed_loads += 1
        self._forget_old_failures()
        self._failed[entry.digest] = entry
        self._waiters.refuse(entry.digest, entry.failure)

    def _forget_old_failures(self) -> None:
        while self._failed and self._is_retry_due(next(iter(self._failed.values()))):
            _, entry = self._failed.popitem(last=False)
            self._remove(entry)

    def _line_up(self, entry: Entry[A], size_bytes: int) -> None:
        if self._is_closed:
            return
        self._release_room(entry)
        entry.size_bytes = size_bytes
        self._line.add(entry.tenant, entry.digest, entry)

    def _serve_line(self) -> None:
        """Let in from the head of the line, until the head must wait for room."""
        while self._line and not self._is_closed:
            entry = self._line.first()
            self._is_head_waiting = not self._serve(entry)
            if self._is_head_waiting:
                return
            self._line.serve(entry.digest)

    def _serve(self, entry: Entry[A]) -> bool:
        """Give this head of the line what it waits for. False where it must stay."""
        if entry.state == "resident":
            self._waiters.admit(entry.digest)
        elif not self._is_wanted(entry):
            self._remove(entry)
        elif self._kept_beside(entry) + entry.size_bytes > self._budget_bytes:
            self._fail(entry, self._no_room_fault(entry))
        elif self._make_room(entry.size_bytes):
            self._reserve(entry)
        else:
            return False
        return True

    def _reserve(self, entry: Entry[A]) -> None:
        self._hold_room(entry)
        if entry.is_at_hand:
            self._at_hand.submit(entry.tenant, entry)
        else:
            self._submit_load(entry)

    def _submit_load(self, entry: Entry[A]) -> None:
        fetched = entry.fetched
        assert fetched is not None, "only what has been fetched stands in line for room"
        self._loaders.submit(entry.tenant, lambda: self._load(entry, fetched))

    def _is_wanted(self, entry: Entry[A]) -> bool:
        return entry.digest in self._kept or self._waiters.is_awaited(entry.digest)

    def _kept_beside(self, entry: Entry[A]) -> int:
        is_counted = entry.is_holding_room and entry.digest in self._kept
        return self._kept_bytes - (entry.size_bytes if is_counted else 0)

    def _no_room_fault(self, entry: Entry[A]) -> Fault:
        if entry.size_bytes > self._budget_bytes:
            return BundleTooLarge(
                f"the adapter takes {entry.size_bytes} bytes on the device, resident_bytes allows "
                f"{self._budget_bytes} for all: raise resident_bytes"
            )
        return ServerOverloaded(
            f"the adapter takes {entry.size_bytes} bytes on the device, but adapters kept resident hold "
            f"{self._kept_bytes} of {self._budget_bytes}: keep fewer resident or raise resident_bytes"
        )

    def _make_room(self, size_bytes: int) -> bool:
        while self._held_bytes + size_bytes > self._budget_bytes:
            digest = self._idle.first()
            if digest is None:
                return False
            self._evict(digest)
        return True

    def _evict(self, digest: str) -> None:
        entry = self._entries[digest]
        self._idle.discard(digest)
        self._release_room(entry)
        entry.adapter = None
        self._num_resident -= 1
        self._num_evictions += 1
        self._remove(entry)
        if not entry.is_forgotten:
            self._loader.evicted(digest)
        if self._line.discard(digest):
            # Somebody waits for it in line: it lines up again, as a load, when its files are there.
            self._start(entry.bundle, entry.tenant)

    def _remove(self, entry: Entry[A]) -> None:
        del self._entries[entry.digest]
        if entry.is_forgotten:
            self._loader.forget(entry.digest)

    def _hold_room(self, entry: Entry[A]) -> None:
        entry.is_holding_room = True
        self._held_bytes += entry.size_bytes
        self._count(entry, entry.size_bytes)

    def _release_room(self, entry: Entry[A]) -> None:
        if entry.is_holding_room:
            entry.is_holding_room = False
            self._held_bytes -= entry.size_bytes
            self._count(entry, -entry.size_bytes)

    def _move(self, digest: str, change: Callable[[str], None]) -> None:
        """Into the kept or out of them, with what it holds."""
        entry = self._entries.get(digest)
        if entry is None or not entry.is_holding_room:
            change(digest)
            return
        self._count(entry, -entry.size_bytes)
        change(digest)
        self._count(entry, entry.size_bytes)

    def _count(self, entry: Entry[A], size_bytes: int) -> None:
        """In its tenant's share, or among the kept, which are in nobody's."""
        if entry.digest in self._kept:
            self._kept_bytes += size_bytes
        else:
            self._idle.count(entry.tenant, size_bytes)

    def _resize(self, entry: Entry[A], size_bytes: int) -> bool:
        """Change a reservation to the adapter's true size. False where there is no room for it now."""
        self._release_room(entry)
        if not self._make_room(size_bytes):
            return False
        entry.size_bytes = size_bytes
        self._hold_room(entry)
        return True

    def _rest(self, entry: Entry[A]) -> None:
        """A resident adapter that nobody holds may be evicted, and is the last in turn for that."""
        if entry.state == "resident" and entry.num_pins == 0 and entry.digest not in self._kept:
            self._idle.add(entry.digest, entry.tenant)
            if entry.is_forgotten and entry.digest not in self._line:
                self._evict(entry.digest)
        self._serve_line()
