"""What all desks of the registry share: the database, the blobs, and what is remembered of both. Knows no one noun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Change, Database, Write
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.rollouts import Route
from prefixrack_server.registry.snapshot import Snapshot

T = TypeVar("T")

MAX_RESOLVED: Final = 20_000
MAX_GRANTS: Final = 10_000


class TimedGrant(NamedTuple):
    principal: Principal
    known_at: float  # seconds of the monotonic timer


class Desk:
    """Process life. Every method is safe to call from many tasks of one event loop."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        grace_s: float,
        timer: Callable[[], float],
        noticeboard: Noticeboard,
    ) -> None:
        self._database = database
        self._noticeboard = noticeboard
        self._blobs = blobs
        self._grace_s = grace_s
        self._timer = timer
        self._routes: Snapshot[tuple[str, str], Route] = Snapshot(MAX_RESOLVED, _adapter_of)
        self._grants: Snapshot[str, TimedGrant] = Snapshot(MAX_GRANTS)
        self._seen_revision = 0
        self._seen_changes = 0
        self._under_way: set[asyncio.Task[object]] = set()

    async def close(self) -> None:
        """Changes that are under way are carried out first, though nobody waits for them any more."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._database.close()

    async def revision(self) -> int:
        """The number of changes so far, by whatever process."""
        return await self._database.revision()

    @property
    def is_away(self) -> bool:
        """Whether the database did not answer the last time that somebody asked."""
        return self._database.is_away

    async def refresh(self) -> int:
        """Doubt remembered answers if another process changed something. To be called about twice a second.

        Returns the revision. Raises RegistryUnavailable.
        """
        revision = await self._database.revision()
        if revision != self._seen_revision:
            self._forget()
            self._seen_revision = revision
        return revision

    async def _change(self, tenant: str, name: str, change: Change[T]) -> T:
        """A transaction after which nothing that was remembered of this adapter is answered."""
        return await self._write(change, lambda: self._routes.forget((tenant, name)))

    async def _write(self, change: Change[T], forget: Callable[[], None] = lambda: None) -> T:
        """A transaction, with what else must be forgotten at its end.

        The rest stays remembered: if every upload of anything emptied all, requests beside many uploads would each
        read SQL. Once begun it is carried out, whether or not its caller stays: what has become of it must be known
        here.
        """
        task = asyncio.create_task(self._carry_out(change, forget))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _carry_out(self, change: Change[T], forget: Callable[[], None]) -> T:
        """What ends before its commit has changed nothing, so nothing is forgotten."""
        revision: int | None = None

        async def noted(write: Write) -> T:
            nonlocal revision
            result = await change(write)
            revision = write.revision  # the commit follows
            return result

        try:
            result = await self._database.write(noted)
        except BaseException:
            if revision is not None:  # cut off: it may have gone through
                self._forget()
                self._note_own()
            raise
        assert revision is not None, "what is committed has a revision"
        self._see_own(revision)
        forget()
        self._note_own()
        return result

    def _note_own(self) -> None:
        """Tell the other front ends of a change of this one, which has forgotten already what it must."""
        self._see_changes()
        self._noticeboard.note_change()
        self._seen_changes += 1

    def _see_own(self, revision: int) -> None:
        """A change of this process is no reason for `refresh` to forget, unless another process's came between."""
        if revision == self._seen_revision + 1:
            self._seen_revision = revision

    def _see_changes(self) -> None:
        """Drop remembered answers if another front end of the server has changed something since."""
        num_changes = self._noticeboard.num_changes
        if num_changes != self._seen_changes:
            self._seen_changes = num_changes
            self._forget()

    def _forget(self) -> None:
        """Ask again, whatever it is; but while nobody can be asked, the last answer holds."""
        self._routes.doubt()
        self._grants.doubt()


def _adapter_of(key: tuple[str, str]) -> tuple[str, str]:
    """Tenant and name, of a tenant and any reference to one of the adapter's versions."""
    tenant, ref = key
    return tenant, ref.partition("@")[0]
