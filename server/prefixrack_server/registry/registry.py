"""The registry: adapters, versions, aliases and keys of all tenants, durable once acknowledged. Knows no HTTP and no
engine.

Upload: files into the blob store first, then one SQL transaction; deletion: SQL first, the files later. A crash
between the two leaves at most files that no version names, and `sweep_orphans` removes those.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Clock, Database, utc_now
from prefixrack_server.registry.desks.adapters import AdapterDesk, BundleFiles, Removed
from prefixrack_server.registry.desks.aliases import AliasDesk
from prefixrack_server.registry.desks.door import DoorDesk
from prefixrack_server.registry.desks.keys import KeyDesk
from prefixrack_server.registry.desks.records import RecordsDesk
from prefixrack_server.registry.desks.routing import RoutingDesk
from prefixrack_server.registry.desks.sweeping import SweepingDesk
from prefixrack_server.registry.desks.tenants import TenantDesk
from prefixrack_server.registry.desks.uploads import UploadDesk
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.tenants import DEFAULT_TENANT
from prefixrack_server.registry.versions import Version

__all__ = ["DEFAULT_TENANT", "BundleFiles", "Principal", "Registry", "Removed", "Version"]

GRACE_S: Final = 60.0


class Registry(
    RoutingDesk,
    UploadDesk,
    AdapterDesk,
    AliasDesk,
    SweepingDesk,
    TenantDesk,
    KeyDesk,
    DoorDesk,
    RecordsDesk,
):
    """Process life. Every method is safe to call from many tasks of one event loop."""

    @classmethod
    async def open(
        cls,
        database_url: str,
        blobs: BlobStore,
        *,
        grace_s: float = GRACE_S,
        clock: Clock = utc_now,
        timer: Callable[[], float] = time.monotonic,
        noticeboard: Noticeboard | None = None,
        is_migrated: bool = False,
    ) -> Registry:
        """Connect, and run the migrations where nobody has. A deleted version's files stay `grace_s` for requests in
        flight. Those who share a `noticeboard` see each other's changes at once.
        """
        database = await Database.open(database_url, clock, is_migrated)
        registry = cls(database, blobs, grace_s, timer, noticeboard or Noticeboard.alone())
        try:
            await registry.ensure_tenant(DEFAULT_TENANT)
            await registry.refresh()
        except BaseException:
            await database.close()
            raise
        return registry
