"""The registry: adapters, versions, aliases and keys of all tenants, durable once acknowledged. Knows no HTTP and no
engine.

Upload: files into the blob store first, then one SQL transaction; deletion: SQL first, the files later. A crash
between the two leaves at most files that no version names, and `sweep_orphans` removes those.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from prefixrack.errors import Conflict, RegistryUnavailable
from prefixrack.types import (
    AdapterSummary,
    AliasInfo,
    AuditLine,
    GatesInfo,
    KeyInfo,
    TenantInfo,
    UsageLine,
    VersionInfo,
)
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.messages import BundleRef
from prefixrack_server.noticeboard import Noticeboard
from prefixrack_server.registry import (
    aliases,
    audit,
    chores,
    garbage,
    gates,
    idempotency,
    keys,
    listing,
    rollouts,
    storage_quota,
    tenants,
    usage,
    versions,
)
from prefixrack_server.registry.aliases import Target
from prefixrack_server.registry.blobs import BlobStore
from prefixrack_server.registry.database import Clock, Database, Write, utc_now
from prefixrack_server.registry.names import check_name, parse_ref
from prefixrack_server.registry.patterns import Patterns
from prefixrack_server.registry.principal import NOBODY, Actor, Principal, TokenClaims
from prefixrack_server.registry.rollouts import Route
from prefixrack_server.registry.snapshot import Snapshot
from prefixrack_server.registry.versions import Version
from prefixrack_server.upload import SpooledBundle

__all__ = ["BundleFiles", "Principal", "Registry", "Version"]

DEFAULT_TENANT: Final = "default"
GRACE_S: Final = 60.0
GRANT_LIFE_S: Final = 5.0  # of a remembered key, should nobody call `refresh`
MAX_RESOLVED: Final = 20_000
MAX_GRANTS: Final = 10_000
MAX_SWEPT_AT_ONCE: Final = 200  # writers wait for as long as their files are being removed
DECLARED: Final = Actor("declared")  # who added a version that a file declares


Verify = Callable[[str], Awaitable[TokenClaims]]


class BundleFiles(NamedTuple):
    manifest_bytes: bytes
    tensors_path: Path
    card: str | None


class TimedGrant(NamedTuple):
    principal: Principal
    known_at: float  # seconds of the monotonic timer


class Registry:
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

    async def resolve(self, tenant: str, ref: str) -> Version:
        """The version that `name`, `name@alias` or `name@7` means now, whatever canary it has. Raises as `route`."""
        return (await self.route(tenant, ref)).version

    async def route(self, tenant: str, ref: str) -> Route:
        """Where requests for `name`, `name@alias` or `name@7` go now. Without I/O for what was asked before.

        As long as the database does not answer, what it meant the last time. Raises InvalidName, AdapterNotFound,
        VersionNotFound, AliasNotFound or RegistryUnavailable.
        """
        self._see_changes()
        known = self._routes.get((tenant, ref))
        if known is not None:
            return known
        try:
            return await self._find(tenant, ref)
        except RegistryUnavailable:
            last_known = self._routes.last_known((tenant, ref))
            if last_known is None:
                raise
            return last_known

    async def _find(self, tenant: str, ref: str) -> Route:
        parsed = parse_ref(ref)
        generation = self._routes.generation
        async with self._database.read() as conn:
            route = await rollouts.find(conn, tenant, parsed)
        self._routes.put(generation, (tenant, ref), route)
        return route

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

        Raises InvalidName, IdempotencyConflict or DiskFull, and then nothing has changed.
        """
        check_name(name)
        if idempotency_key is not None:
            replayed = await self.replay(tenant, idempotency_key, upload.digest, name)
            if replayed is not None:
                return replayed, False
        await asyncio.to_thread(_put_blobs, self._blobs, upload)
        async with self._change(tenant, name) as write:
            return await self._add_version(write, tenant, name, upload, manifest, by, idempotency_key)

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
        if not await asyncio.to_thread(_are_stored, self._blobs, garbage.blobs_of(version)):
            await asyncio.to_thread(_put_blobs, self._blobs, upload)
        await garbage.mark_alive(write, version)
        await write.record(tenant, by, "version.add", version.ref, digest=version.digest)
        return version

    async def declare_version(
        self, tenant: str, name: str, number: int, upload: SpooledBundle, manifest: Manifest
    ) -> Version:
        """Make an upload the version of this number, where a file says so and nobody else adds any.

        Raises Conflict for a number that is, or was, another version's, or DiskFull.
        """
        await asyncio.to_thread(_put_blobs, self._blobs, upload)
        async with self._change(tenant, name) as write:
            known = await versions.find_number(write.conn, tenant, name, number)
            if known is not None and known.digest == upload.digest:
                return known
            await versions.reserve_number(write, tenant, name, number)
            return await self._insert(write, tenant, name, upload, manifest, DECLARED)

    async def replay(self, tenant: str, idempotency_key: str, digest: str, name: str | None = None) -> Version | None:
        """What an earlier upload under this key made. Raises IdempotencyConflict if it had other content or, where
        `name` is given, another name."""
        async with self._database.read() as conn:
            return await idempotency.recall(conn, tenant, idempotency_key, digest, name, self._database.now())

    async def list_adapters(
        self,
        tenant: str,
        limit: int,
        cursor: str | None = None,
        search: str | None = None,
        patterns: Sequence[Patterns] = (),
    ) -> tuple[list[AdapterSummary], str | None]:
        """A page by name, and the cursor of the next one; names that fit not all of `patterns` are left out."""
        async with self._database.read() as conn:
            return await listing.adapters_page(conn, tenant, limit, cursor, search, patterns)

    async def get_adapter(self, tenant: str, name: str) -> AdapterSummary:
        check_name(name)
        async with self._database.read() as conn:
            return await listing.summary(conn, tenant, name)

    async def list_versions(
        self, tenant: str, name: str, limit: int, cursor: str | None = None
    ) -> tuple[list[VersionInfo], str | None]:
        """A page, newest first, and the cursor of the next one."""
        check_name(name)
        async with self._database.read() as conn:
            return await listing.versions_page(conn, tenant, name, limit, cursor)

    async def describe(self, version: Version, is_new: bool = True) -> VersionInfo:
        """A version with the aliases that stand on it now."""
        async with self._database.read() as conn:
            pointers = await listing.pointers(conn, version.tenant, version.name)
        return listing.version_info(version, pointers, is_new)

    async def delete_version(self, tenant: str, name: str, number: int, *, by: Actor = NOBODY) -> list[str]:
        """Remove a version; its number is not given out again. Returns the blobs that no version needs any more.

        Raises AdapterNotFound, VersionNotFound, or Conflict while an alias other than `latest` stands on it.
        """
        check_name(name)
        async with self._change(tenant, name) as write:
            version = await versions.delete_version(write, tenant, name, number)
            await write.record(tenant, by, "version.delete", version.ref, digest=version.digest)
            return await garbage.mark_dead(write, [version])

    async def delete_adapter(self, tenant: str, name: str, *, by: Actor = NOBODY) -> list[str]:
        """Remove an adapter with all its versions and aliases. Returns the blobs that no version needs any more."""
        check_name(name)
        async with self._change(tenant, name) as write:
            removed = await versions.delete_adapter(write, tenant, name)
            await write.record(tenant, by, "adapter.delete", name, digests=[version.digest for version in removed])
            return await garbage.mark_dead(write, removed)

    async def is_known_name(self, tenant: str, name: str) -> bool:
        """Whether there ever was an adapter of this name, a deleted one included."""
        async with self._database.read() as conn:
            return await versions.is_known_name(conn, tenant, check_name(name))

    async def digests(self, tenant: str, name: str) -> set[str]:
        """Those of all versions of an adapter; none where there is no such adapter."""
        async with self._database.read() as conn:
            return await versions.digests_of(conn, tenant, check_name(name))

    async def unused(self, digests: Collection[str]) -> set[str]:
        """Those that no version of any adapter has (any more)."""
        async with self._database.read() as conn:
            return set(digests) - await versions.used_digests(conn, digests)

    async def get_alias(self, tenant: str, name: str, alias: str) -> AliasInfo:
        check_name(name)
        async with self._database.read() as conn:
            return await aliases.get(conn, tenant, name, alias)

    async def list_aliases(self, tenant: str, name: str) -> list[AliasInfo]:
        check_name(name)
        async with self._database.read() as conn:
            return await aliases.every(conn, tenant, name)

    async def put_alias(
        self,
        tenant: str,
        name: str,
        alias: str,
        target: int | Target,
        if_match: str | None = None,
        *,
        if_none_match: str | None = None,
        require: Sequence[str] = (),
        by: Actor = NOBODY,
    ) -> AliasInfo:
        """Promotion. An alias that exists moves only with its entity tag, or `*`, in `if_match`.

        `target` is a version, or one with a canary or a shadow. `require`, and what the alias' gates ask for, is
        checked against the version's claimed metrics. Raises InvalidName, AdapterNotFound, VersionNotFound,
        PreconditionRequired, PreconditionFailed, RequirementNotMet or InvalidRequest.
        """
        check_name(name)
        async with self._change(tenant, name) as write:
            wanted = Target(target) if isinstance(target, int) else target
            before = await aliases.standing(write.conn, tenant, name, alias)
            moved = await aliases.put(write, tenant, name, alias, wanted, if_match, if_none_match, require)
            changed = {"before": before and _stand_of(before), "after": _stand_of(moved)}
            await write.record(tenant, by, "alias.put", f"{name}@{alias}", **changed)
            return moved

    async def roll_back(
        self, tenant: str, name: str, alias: str, if_match: str | None = None, *, by: Actor = NOBODY
    ) -> AliasInfo:
        """Take an alias' canary away, or where there is none, return to the version before, in one call.

        Raises AdapterNotFound, AliasNotFound or PreconditionFailed.
        """
        check_name(name)
        async with self._change(tenant, name) as write:
            before = await aliases.standing(write.conn, tenant, name, alias)
            moved = await aliases.roll_back(write, tenant, name, alias, if_match)
            changed = {"before": before and _stand_of(before), "after": _stand_of(moved)}
            await write.record(tenant, by, "alias.rollback", f"{name}@{alias}", **changed)
            return moved

    async def get_gates(self, tenant: str, name: str, alias: str) -> GatesInfo:
        """What each promotion of the alias must show; nothing where it is not protected. Raises AdapterNotFound."""
        check_name(name)
        async with self._database.read() as conn:
            await versions.latest_number(conn, tenant, name)
            return GatesInfo(name=name, alias=alias, require=await gates.get(conn, tenant, name, alias))

    async def put_gates(
        self, tenant: str, name: str, alias: str, require: Sequence[str], *, by: Actor = NOBODY
    ) -> GatesInfo:
        """Protect an alias, or with no requirement stop protecting it.

        Raises InvalidName, InvalidRequest or AdapterNotFound.
        """
        check_name(name)
        async with self._change(tenant, name) as write:
            before = await gates.get(write.conn, tenant, name, alias)
            await gates.put(write, tenant, name, alias, require)
            await write.record(tenant, by, "alias.gates", f"{name}@{alias}", before=before, after=list(require))
        return GatesInfo(name=name, alias=alias, require=list(require))

    async def delete_alias(
        self, tenant: str, name: str, alias: str, if_match: str | None = None, *, by: Actor = NOBODY
    ) -> None:
        check_name(name)
        async with self._change(tenant, name) as write:
            removed = await aliases.remove(write, tenant, name, alias, if_match)
            await write.record(tenant, by, "alias.delete", f"{name}@{alias}", before=_stand_of(removed))

    async def set_kept(self, tenant: str, name: str, number: int, keep: bool, *, by: Actor = NOBODY) -> Version:
        """Note an administrator's wish that a version stays resident, or that it need not."""
        check_name(name)
        async with self._change(tenant, name) as write:
            version = await versions.set_kept(write, tenant, name, number, keep)
            await write.record(tenant, by, "version.keep", version.ref, keep=keep)
            return version

    async def kept(self) -> list[Version]:
        """The versions of all tenants that are to stay resident."""
        async with self._database.read() as conn:
            return await versions.find_kept(conn)

    async def open_bundle_files(self, version: Version) -> BundleFiles:
        """What was uploaded, byte for byte. Raises BlobUnusable."""
        return await asyncio.to_thread(_read_files, self._blobs, version)

    async def keep_young(self, blobs: Collection[str]) -> None:
        """Let no sweep take these within the grace time, whoever does it, whether or not a version needs them."""
        if blobs:
            await asyncio.to_thread(_keep_young, self._blobs, blobs, self._database.now())

    async def claim_turn(self, chore: str, period_s: float) -> bool:
        """Whether the caller is the one replica that does this now: nobody else has begun it within `period_s`."""
        before = self._database.now() - timedelta(seconds=period_s)
        async with self._database.read() as conn:
            if not await chores.is_due(conn, chore, before):
                return False
        async with self._write() as write:
            is_mine = await chores.is_due(write.conn, chore, before)
            if is_mine:
                await chores.begin(write, chore)
            return is_mine

    async def sweep_orphans(self, min_age_s: float | None = None) -> list[str]:
        """Remove blobs that no version has needed for `min_age_s` (default: the grace time), and return their keys."""
        min_age = timedelta(seconds=self._grace_s if min_age_s is None else min_age_s)
        before = self._database.now() - min_age
        stored = await asyncio.to_thread(_list_blobs, self._blobs, before)
        async with self._database.read() as conn:
            candidates = await garbage.removable(conn, stored, before)
        orphans = []
        for batch in _batches(candidates, MAX_SWEPT_AT_ONCE):
            orphans += await self._sweep(batch, before)
        return orphans

    async def _sweep(self, candidates: Sequence[str], before: datetime) -> list[str]:
        async with self._write() as write:
            # Asked again under the writers' lock, of SQL and of the store: an upload may have come to need one
            # meanwhile, or be about to.
            unneeded = await garbage.removable(write.conn, candidates, before)
            orphans = await asyncio.to_thread(_still_old, self._blobs, unneeded, before)
            await asyncio.to_thread(self._blobs.delete, orphans)
            await garbage.forget(write, unneeded)
            return orphans

    async def ensure_tenant(self, tenant: str) -> None:
        """Make sure that a tenant exists."""
        async with self._database.read() as conn:
            if await tenants.is_known(conn, tenant):
                return
        with suppress(Conflict):  # another process came first
            await self.create_tenant(tenant)

    async def create_tenant(
        self, tenant: str, settings: Mapping[str, Any] | None = None, *, by: Actor = NOBODY
    ) -> TenantInfo:
        """Raises InvalidName, InvalidRequest, or Conflict where there is one of this name."""
        async with self._write(self._grants.clear) as write:
            made = await tenants.create(write, tenant, settings or {})
            await write.record(tenant, by, "tenant.create", tenant, after=_audited(made))
            return made

    async def change_tenant(
        self, tenant: str, settings: Mapping[str, Any], is_disabled: bool | None = None, *, by: Actor = NOBODY
    ) -> TenantInfo:
        """Set some of a tenant's columns; refuse all of its keys, or admit them again. Nothing of it is removed.

        Raises TenantNotFound, InvalidRequest, or Conflict where no key with the scope `admin` would be left.
        """
        async with self._write(self._grants.clear) as write:
            before = await tenants.get(write.conn, tenant)
            is_lockable = bool(await keys.admin_ids(write))
            after = await tenants.change(write, tenant, settings, is_disabled)
            if is_lockable and not await keys.admin_ids(write):
                raise Conflict(
                    f"the tenant {tenant!r} has the last keys with the scope 'admin': make one for another tenant first"
                )
            await write.record(tenant, by, "tenant.update", tenant, before=_audited(before), after=_audited(after))
            return after

    async def get_tenant(self, tenant: str) -> TenantInfo:
        """With what it has stored. Raises TenantNotFound."""
        async with self._database.read() as conn:
            found = await tenants.get(conn, tenant)
            return found.model_copy(update={"stored": await storage_quota.stored(conn, tenant)})

    async def list_tenants(self, limit: int, cursor: str | None = None) -> tuple[list[TenantInfo], str | None]:
        """A page by name, and the cursor of the next one."""
        async with self._database.read() as conn:
            return await tenants.page(conn, limit, cursor)

    async def create_key(
        self,
        tenant: str,
        scopes: Iterable[str],
        expires_at: datetime | None = None,
        adapters: Iterable[str] = (),
        *,
        name: str | None = None,
        by: Actor = NOBODY,
    ) -> KeyInfo:
        """A new API key. Its secret is in this answer and nowhere else.

        Raises TenantNotFound, or InvalidRequest for unknown scopes, patterns and names.
        """
        async with self._write(self._grants.clear) as write:
            return await _create_key(write, tenant, scopes, expires_at, adapters, name, by)

    async def rotate_key(
        self,
        tenant: str,
        key_id: str,
        overlap: timedelta | None = None,
        *,
        may_rotate_admins: bool = True,
        by: Actor = NOBODY,
    ) -> KeyInfo:
        """A second key that may do what this one may; this one ends by `revoke_key`, or after `overlap`.

        Raises KeyNotFound, Forbidden for an admin's key, or Conflict for one that does not hold or has a successor.
        """
        async with self._write(self._grants.clear) as write:
            made = await keys.rotate(write, tenant, key_id, may_rotate_admins, overlap)
            overlap_s = None if overlap is None else overlap.total_seconds()
            await write.record(tenant, by, "key.rotate", key_id, successor=made.id, overlap_s=overlap_s)
            return made

    async def ensure_admin_key(self) -> str | None:
        """The secret of a first administrator's key, if there was never any key; else None."""
        async with self._write(self._grants.clear) as write:
            if await keys.is_any(write.conn):
                return None
            return (await _create_key(write, DEFAULT_TENANT, ["admin"], None, (), None, NOBODY)).secret

    async def new_admin_key(self) -> str | None:
        """The secret of one more administrator's key, for who can start the server but has lost the others."""
        return (await self.create_key(DEFAULT_TENANT, ["admin"])).secret

    async def list_keys(self, tenant: str, limit: int, cursor: str | None = None) -> tuple[list[KeyInfo], str | None]:
        """A page of the keys that are not revoked, without secrets, and the cursor of the next one."""
        async with self._database.read() as conn:
            return await keys.page(conn, tenant, limit, cursor)

    async def revoke_key(self, tenant: str, key_id: str, *, may_revoke_admins: bool = True, by: Actor = NOBODY) -> None:
        """Raises KeyNotFound, Forbidden for an admin's key, or Conflict for the last one that still holds."""
        async with self._write(self._grants.clear) as write:
            await keys.revoke(write, tenant, key_id, may_revoke_admins)
            await write.record(tenant, by, "key.revoke", key_id)

    async def authenticate(self, secret: str) -> Principal:
        """Who holds this key. Raises InvalidKey if it is unknown, revoked or expired.

        Answers are remembered for a few seconds under the key's sha256, until the revision changes; and as long as the
        database does not answer, for nobody can revoke a key then.
        """

        async def find() -> Principal:
            async with self._database.read() as conn:
                return await keys.find_principal(conn, secret)

        return await self._admit(keys.key_sha256(secret), find)

    async def authenticate_token(self, token: str, verify: Verify) -> Principal:
        """Who a signed token speaks for; remembered as a key is. Raises what `verify` does, and TenantDisabled."""

        async def find() -> Principal:
            claims = await verify(token)
            async with self._database.read() as conn:
                return await keys.token_principal(conn, claims)

        return await self._admit(hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest(), find)

    async def _admit(self, sha256: str, find: Callable[[], Awaitable[Principal]]) -> Principal:
        self._see_changes()
        known = self._grants.get(sha256)
        if known is None or self._timer() - known.known_at > GRANT_LIFE_S:
            known = await self._find_grant(sha256, find)
        return keys.check_unexpired(known.principal, self._database.now())

    async def _find_grant(self, sha256: str, find: Callable[[], Awaitable[Principal]]) -> TimedGrant:
        generation, known_at = self._grants.generation, self._timer()
        try:
            found = TimedGrant(await find(), known_at)
        except RegistryUnavailable:
            last_known = self._grants.last_known(sha256)
            if last_known is None:
                raise
            return last_known
        self._grants.put(generation, sha256, found)
        return found

    async def list_audit(
        self, tenant: str, limit: int, cursor: str | None = None, action: str | None = None
    ) -> tuple[list[AuditLine], str | None]:
        """A page of the audit log, newest first, and the cursor of the next one."""
        async with self._database.read() as conn:
            return await audit.page(conn, tenant, limit, cursor, action)

    async def add_usage(self, lines: Sequence[UsageLine]) -> None:
        """Add to what tenants had computed. No change of the registry: nobody's remembered answers are forgotten."""
        async with self._database.append() as conn:
            await usage.add(conn, lines)

    async def list_usage(
        self, tenant: str, since: date | None, until: date | None, limit: int, cursor: str | None = None
    ) -> tuple[list[UsageLine], str | None]:
        """A page by day and adapter, and the cursor of the next one."""
        async with self._database.read() as conn:
            return await usage.page(conn, tenant, since, until, limit, cursor)

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


def _stand_of(alias: AliasInfo) -> dict[str, Any]:
    """What the audit log keeps of an alias."""
    return alias.model_dump(mode="json", exclude_none=True, include={"version", "canary", "shadow_version"})


async def _create_key(
    write: Write,
    tenant: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
    adapters: Iterable[str],
    name: str | None,
    by: Actor,
) -> KeyInfo:
    made = await keys.create(write, tenant, scopes, expires_at, adapters, name)
    after = made.model_dump(mode="json", include={"name", "scopes", "expires_at", "adapters"})
    await write.record(tenant, by, "key.create", made.id, after=after)
    return made


def _audited(tenant: TenantInfo) -> dict[str, Any]:
    return tenant.model_dump(mode="json", exclude={"name", "created_at", "stored"})


def _put_blobs(blobs: BlobStore, upload: SpooledBundle) -> None:
    # The large file first: a full disk then leaves nothing behind.
    blobs.put_file(upload.tensors_sha256, upload.tensors_path)
    blobs.put_bytes(upload.manifest_sha256, upload.manifest_bytes)


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _are_stored(blobs: BlobStore, sha256s: Iterable[str]) -> bool:
    return all(blobs.exists(sha256) for sha256 in sha256s)


def _list_blobs(blobs: BlobStore, before: datetime) -> list[str]:
    return list(blobs.older_than(before))


def _keep_young(blobs: BlobStore, sha256s: Iterable[str], now: datetime) -> None:
    for sha256 in sha256s:
        blobs.keep_young(sha256, now)


def _still_old(blobs: BlobStore, sha256s: Iterable[str], before: datetime) -> list[str]:
    return [sha256 for sha256 in sha256s if blobs.is_older(sha256, before)]


def _read_files(blobs: BlobStore, version: Version) -> BundleFiles:
    manifest = blobs.local_path(version.bundle.manifest_sha256).read_bytes()
    tensors_bytes = version.size_bytes - len(manifest)
    return BundleFiles(manifest, blobs.local_path(version.bundle.tensors_sha256, tensors_bytes), version.card)
