"""Uploads: a spooled bundle becomes a version, by way of every check and one probe on the engine. Knows no HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from prefixrack.errors import Fault, MalformedBundle
from prefixrack_adapters.bundle import BUNDLE_FILES, MANIFEST_FILE, check_bundle
from prefixrack_adapters.manifest import Manifest, parse_manifest
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.dispatch import Payer
from prefixrack_server.predict import Predictor
from prefixrack_server.registry.names import check_name
from prefixrack_server.registry.principal import Actor
from prefixrack_server.registry.registry import Registry, Version
from prefixrack_server.sources import Sources
from prefixrack_server.upload import Draft, Spool, SpooledBundle

# Checking reads all tensors: one at a time bounds the memory that uploads take.
CHECKS_AT_ONCE = 1
CHUNK_BYTES = 1 << 20
STARTUP = Actor("startup")

Fill = Callable[[Draft], Awaitable[SpooledBundle]]

log = structlog.stdlib.get_logger("prefixrack.uploads")


@dataclass(frozen=True, slots=True)
class Registration:
    """Who adds what under which name. `name` None takes the manifest's."""

    tenant: str
    name: str | None
    by: Actor
    idempotency_key: str | None = None


class Uploads:
    """Lives as long as the process."""

    def __init__(
        self, registry: Registry, predictor: Predictor, spool: Spool, spec: BackboneSpec, serving_dtype: str
    ) -> None:
        self._registry = registry
        self._predictor = predictor
        self._spool = spool
        self._spec = spec
        self._serving_dtype = serving_dtype
        self._limiter = anyio.CapacityLimiter(CHECKS_AT_ONCE)

    async def accept(self, registration: Registration, fill: Fill) -> tuple[Version, bool]:
        """Spool with `fill`, check, store, probe, register: until the last step nothing has changed for anybody.

        Returns the version and whether it is new. Raises BundleFaults, IdempotencyConflict, DiskFull, ServiceFaults.
        """
        if registration.name is not None:
            check_name(registration.name)
        async with self._spool.draft() as draft:
            return await self._register(registration, await fill(draft))

    async def _register(self, registration: Registration, upload: SpooledBundle) -> tuple[Version, bool]:
        tenant, key = registration.tenant, registration.idempotency_key
        if key is not None:
            known = await self._registry.replay(tenant, key, upload.digest, registration.name)
            if known is not None:
                return known, False
        manifest = await self._check(upload)
        await self._predictor.probe(manifest, await self._registry.stage(upload), Payer(tenant))
        name = registration.name or manifest.name
        return await self._registry.add_version(tenant, name, upload, manifest, registration.by, key)

    async def _check(self, upload: SpooledBundle) -> Manifest:
        return await anyio.to_thread.run_sync(
            check_bundle,
            upload.manifest_bytes,
            upload.tensors_path,
            self._spec,
            self._serving_dtype,
            limiter=self._limiter,
        )

    async def declare(self, tenant: str, name: str, number: int, bundle: Path, digest: str) -> Version:
        """Make the bundle in a folder the version of this number, by the same checks as an upload.

        Raises BundleFaults, one of them where it has another digest than declared, Conflict, DiskFull, ServiceFaults.
        """
        async with self._spool.draft() as draft:
            upload = await fill_from(bundle, draft)
            if upload.digest != digest:
                raise MalformedBundle(
                    f"the bundle at the source has digest {upload.digest}, declared is {digest}: declare what is there"
                )
            manifest = await self._check(upload)
            await self._predictor.probe(manifest, await self._registry.stage(upload), Payer(tenant))
            return await self._registry.declare_version(tenant, name, number, upload, manifest)

    async def register_folder(self, tenant: str, folder: Path) -> None:
        """Register every bundle in `folder`, each under its manifest's name; one that is refused is logged and left."""
        for bundle in await anyio.to_thread.run_sync(find_bundles, folder):
            try:
                await self._register_first(tenant, bundle)
            except Fault as fault:
                log.error("bundle refused", bundle=str(bundle), code=fault.code, detail=fault.detail)

    async def register_sources(self, tenant: str, sources: Sources, uris: Iterable[str]) -> None:
        """Register what the settings name by URI; one that is refused or not there is logged and left."""
        for uri in uris:
            try:
                with sources.scratch() as scratch:
                    await self._register_first(tenant, await sources.fetch(uri, Path(scratch), is_trusted=True))
            except Fault as fault:
                log.error("source refused", source=uri, code=fault.code, detail=fault.detail)

    async def _register_first(self, tenant: str, bundle: Path) -> None:
        """Only a name that was never used: what was deleted stays deleted, and `latest` is not taken from uploads."""
        manifest = parse_manifest(await anyio.Path(bundle / MANIFEST_FILE).read_bytes())
        if await self._registry.is_known_name(tenant, manifest.name):
            log.info("bundle left alone: its name is or was in use", bundle=str(bundle), adapter=manifest.name)
            return
        registration = Registration(tenant, None, STARTUP)
        version, _ = await self.accept(registration, partial(fill_from, bundle))
        log.info("bundle registered", adapter=version.ref, digest=version.digest)


def find_bundles(folder: Path) -> list[Path]:
    return sorted(manifest.parent for manifest in folder.glob(f"*/{MANIFEST_FILE}"))


async def fill_from(bundle: Path, draft: Draft) -> SpooledBundle:
    """Spool the files of a folder. Raises MalformedBundle where one is missing."""
    for name in BUNDLE_FILES:
        path = bundle / name
        if path.is_file():
            await draft.begin(name, path.stat().st_size)
            async for chunk in _chunks(path):
                await draft.write(chunk)
            await draft.end()
    return await draft.finish()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk
