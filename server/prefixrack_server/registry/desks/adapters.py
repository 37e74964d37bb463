"""The adapter desk: adapters and versions that are there, listed, kept resident and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from prefixrack.types import AdapterSummary, VersionDetail, VersionInfo
from prefixrack_server.registry import garbage, listing, versions
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.names import LATEST, check_name
from prefixrack_server.registry.patterns import Patterns
from prefixrack_server.registry.principal import NOBODY, Actor
from prefixrack_server.registry.versions import Version


class BundleFiles(NamedTuple):
    manifest_bytes: bytes
    tensors_path: Path
    card: str | None


class Removed(NamedTuple):
    """What a deletion took away: the digests that no version of any adapter has any more."""

    digests: list[str]
    was_kept: bool  # resident, by an administrator's wish


class AdapterDesk(Desk):
    async def list_adapters(
        self,
        tenant: str,
        limit: int,
        cursor: str | None = None,
        search: str | None = None,
        patterns: Sequence[Patterns] = (),
    ) -> tuple[list[AdapterSummary], str | None]:
        """A page by name, and the cursor of the next one; names that fit not all of `patterns` are left out."""
        return await self._database.read(
            lambda conn: listing.adapters_page(conn, tenant, limit, cursor, search, patterns)
        )

    async def get_adapter(self, tenant: str, name: str) -> AdapterSummary:
        check_name(name)
        return await self._database.read(lambda conn: listing.summary(conn, tenant, name))

    async def list_versions(
        self, tenant: str, name: str, limit: int, cursor: str | None = None
    ) -> tuple[list[VersionInfo], str | None]:
        """A page, newest first, and the cursor of the next one."""
        check_name(name)
        return await self._database.read(lambda conn: listing.versions_page(conn, tenant, name, limit, cursor))

    async def describe(self, version: Version, is_new: bool) -> VersionInfo:
        """A version with the aliases that stand on it now; on a new one that is `latest` alone, and nobody is asked."""
        if is_new:
            return listing.version_info(version, {LATEST: version.number}, is_new)
        pointers = await self._database.read(lambda conn: listing.pointers(conn, version.tenant, version.name))
        return listing.version_info(version, pointers, is_new)

    async def describe_fully(self, version: Version) -> VersionDetail:
        """With what its uploader says of it."""
        info = await self.describe(version, is_new=False)
        manifest = version.manifest.model_dump(mode="json")
        return VersionDetail(**info.model_dump(), manifest=manifest, card=version.card)

    async def delete_version(self, tenant: str, name: str, number: int, *, by: Actor = NOBODY) -> Removed:
        """Remove a version; its number is not given out again.

        Raises AdapterNotFound, VersionNotFound, or Conflict while an alias other than `latest` stands on it.
        """
        check_name(name)

        async def change(write: Write) -> Removed:
            version = await versions.delete_version(write, tenant, name, number)
            await write.record(tenant, by, "version.delete", version.ref, digest=version.digest)
            return Removed(await garbage.mark_dead(write, [version.bundle]), version.kept)

        return await self._change(tenant, name, change)

    async def delete_adapter(self, tenant: str, name: str, *, by: Actor = NOBODY) -> Removed:
        """Remove an adapter with all its versions and aliases. Raises AdapterNotFound."""
        check_name(name)

        async def change(write: Write) -> Removed:
            taken = await versions.delete_adapter(write, tenant, name)
            await write.record(tenant, by, "adapter.delete", name, digests=[one.bundle.digest for one in taken])
            digests = await garbage.mark_dead(write, [one.bundle for one in taken])
            return Removed(digests, any(one.kept for one in taken))

        return await self._change(tenant, name, change)

    async def is_known_name(self, tenant: str, name: str) -> bool:
        """Whether there ever was an adapter of this name, a deleted one included."""
        check_name(name)
        return await self._database.read(lambda conn: versions.is_known_name(conn, tenant, name))

    async def digests(self, tenant: str, name: str) -> set[str]:
        """Those of all versions of an adapter; none where there is no such adapter."""
        check_name(name)
        return await self._database.read(lambda conn: versions.digests_of(conn, tenant, name))

    async def set_kept(self, tenant: str, name: str, number: int, keep: bool, *, by: Actor = NOBODY) -> Version:
        """Note an administrator's wish that a version stays resident, or that it need not."""
        check_name(name)

        async def change(write: Write) -> Version:
            version = await versions.set_kept(write, tenant, name, number, keep)
            await write.record(tenant, by, "version.keep", version.ref, keep=keep)
            return version

        return await self._change(tenant, name, change)

    async def kept(self) -> list[Version]:
        """The versions of all tenants that are to stay resident."""
        return await self._database.read(versions.find_kept)

    async def open_bundle_files(self, version: Version) -> BundleFiles:
        """What was uploaded, byte for byte. Raises BlobUnusable."""
        return await asyncio.to_thread(_read_files, self._blobs, version)


def _read_files(blobs: BlobStore, version: Version) -> BundleFiles:
    manifest = blobs.local_path(version.bundle.manifest_sha256).read_bytes()
    tensors_bytes = version.size_bytes - len(manifest)
    return BundleFiles(manifest, blobs.local_path(version.bundle.tensors_sha256, tensors_bytes), version.card)
