"""What all desks of the registry share: the database, the blobs, and what is remembered of both. Knows no one noun."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Database, Write
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.rollouts import Route
from prefixrack_server.registry.snapshot import Snapshot

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

    async def close(self) -> None:
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

    def _change(self, tenant: str, name: str) -> AbstractAsyncContextManager[Write]:
        """A transaction after which nothing that was remembered of this adapter is answered."""
        return self._write(lambda: self._routes.forget((tenant, name)))

    @asynccontextmanager
    async def _write(self, forget: Callable[[], None] = lambda: None) -> AsyncIterator[Write]:
        """A transaction, with what else must be forgotten at its end.

        The rest stays remembered: if every upload of anything emptied all, requests beside many uploads would each
        read SQL. What ends before its commit has changed nothing, so nothing is forgotten.
        """
        is_committing = False
        try:
            async with self._database.write() as write:
                yield write
                is_committing = True
            self._see_own(write.revision)
            forget()
        except BaseException:
            if is_committing:  # cancelled or cut off: it may have gone through
                self._forget()
            raise
        finally:
            if is_committing:
                self._see_changes()
                self._noticeboard.note_change()
                self._seen_changes += 1  # this one, which is forgotten already

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
