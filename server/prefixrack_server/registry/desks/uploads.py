"""The upload desk: files into the blob store first, then the version in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from prefixrack_adapters.manifest import Manifest
from prefixrack_server.messages import BundleRef
from prefixrack_server.registry import garbage, idempotency, storage_quota, versions
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.desks.desk import Desk
from prefixrack_server.registry.names import check_name
from prefixrack_server.registry.principal import Actor
from prefixrack_server.registry.versions import Version
from prefixrack_server.upload import SpooledBundle

DECLARED: Final = Actor("declared")  # who added a version that a file declares


class UploadDesk(Desk):
    async def stage(self, upload: SpooledBundle) -> BundleRef:
        """Put an upload's files where the engine can fetch them, before it is a version. Raises DiskFull.

        If it never becomes one, `sweep_orphans` removes them.
        """
        await asyncio.to_thread(_put_blobs, self._blobs, upload)
        return BundleRef(upload.digest, upload.manifest_sha256, upload.tensors_sha256)

    async def add_version(
        self,
        tenant: str,
        name: str,
        upload: SpooledBundle,
        manifest: Manifest,
        by: Actor,
        idempotency_key: str | None = None,
    ) -> tuple[Version, bool]:
        """Make an upload a version, durably, and say whether it is new: the same digest again is the existing one.

        `stage` comes first: files that are there are taken for whole and synced.
        Raises InvalidName, IdempotencyConflict or DiskFull, and then nothing has changed.
        """
        check_name(name)
        if idempotency_key is not None:
            replayed = await self.replay(tenant, idempotency_key, upload.digest, name)
            if replayed is not None:
                return replayed, False
        return await self._change(
            tenant,
            name,
            lambda write: self._add_version(write, tenant, name, upload, manifest, by, idempotency_key),
        )

    async def _add_version(
        self,
        write: Write,
        tenant: str,
        name: str,
        upload: SpooledBundle,
        manifest: Manifest,
        by: Actor,
        idempotency_key: str | None,
    ) -> tuple[Version, bool]:
        # Asked again, now that no other writer can come between.
        if idempotency_key is not None:
            known = await idempotency.recall(write.conn, tenant, idempotency_key, upload.digest, name, write.now)
            if known is not None:
                return known, False
        version = await versions.find_digest(write.conn, tenant, name, upload.digest)
        is_new = version is None
        if version is None:
            version = await self._insert(write, tenant, name, upload, manifest, by)
        if idempotency_key is not None:
            await idempotency.remember(write, tenant, idempotency_key, version)
        return version, is_new

    async def _insert(
        self, write: Write, tenant: str, name: str, upload: SpooledBundle, manifest: Manifest, by: Actor
    ) -> Version:
        await storage_quota.check_room(write, tenant, name, upload.size_bytes)
        version = await versions.insert_version(write, tenant, name, upload, manifest, by.key_id)
        # A sweep may have taken the files between their writing and this transaction; from here on it cannot.
        if not await write.aside(_are_stored, self._blobs, garbage.blobs_of(version.bundle)):
            await write.aside(_put_blobs, self._blobs, upload)
        await garbage.mark_alive(write, version.bundle)
        await write.record(tenant, by, "version.add", version.ref, digest=version.digest)
        return version

    async def declare_version(
        self, tenant: str, name: str, number: int, upload: SpooledBundle, manifest: Manifest
    ) -> Version:
        """Make an upload the version of this number, where a file says so and nobody else adds any, after `stage`.

        Raises Conflict for a number that is, or was, another version's, or DiskFull.
        """

        async def change(write: Write) -> Version:
            known = await versions.find_number(write.conn, tenant, name, number)
            if known is not None and known.digest == upload.digest:
                return known
            await versions.reserve_number(write, tenant, name, number)
            return await self._insert(write, tenant, name, upload, manifest, DECLARED)

        return await self._change(tenant, name, change)

    async def replay(self, tenant: str, idempotency_key: str, digest: str, name: str | None = None) -> Version | None:
        """What an earlier upload under this key made. Raises IdempotencyConflict if it had other content or, where
        `name` is given, another name."""
        now = self._database.now()
        return await self._database.read(
            lambda conn: idempotency.recall(conn, tenant, idempotency_key, digest, name, now)
        )


def _put_blobs(blobs: BlobStore, upload: SpooledBundle) -> None:
    # The large file first: a full disk then leaves nothing behind.
    blobs.adopt_file(upload.tensors_sha256, upload.tensors_path)
    blobs.put_bytes(upload.manifest_sha256, upload.manifest_bytes)


def _are_stored(blobs: BlobStore, sha256s: Iterable[str]) -> bool:
    return all(blobs.exists(sha256) for sha256 in sha256s)
