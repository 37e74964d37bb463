"""The adapters that a key may use, all at once: these protocols know no pages. Knows no protocol."""

from __future__ import annotations

from typing import Final

from prefixrack.types import AdapterSummary
from prefixrack_server.registry.principal import Principal
from prefixrack_server.registry.registry import Registry

SCOPE: Final = "adapters:read"
PAGE: Final = 500


async def all_adapters(registry: Registry, principal: Principal) -> list[AdapterSummary]:
    """Those of the key's tenant, in order of their names."""
    adapters: list[AdapterSummary] = []
    cursor: str | None = None
    while True:
        page, cursor = await registry.list_adapters(principal.tenant, PAGE, cursor, patterns=principal.patterns)
        adapters += page
        if cursor is None:
            return adapters


async def all_versions(registry: Registry, tenant: str, name: str) -> list[int]:
    """Their numbers, oldest first."""
    numbers: list[int] = []
    cursor: str | None = None
    while True:
        page, cursor = await registry.list_versions(tenant, name, PAGE, cursor)
        numbers += [info.version for info in page]
        if cursor is None:
            return numbers[::-1]
