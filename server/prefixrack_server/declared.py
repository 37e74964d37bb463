"""The declared registry: a file says which adapters there are, and nobody else does. Knows no HTTP and no engine.

For a registry.json in git or in a ConfigMap: it is read again and again, and the registry made to hold just that. A
version that is named with its digest cannot become another one by a change at its source.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Annotated, Final

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prefixrack.errors import AdapterNotFound, Fault, PrefixrackError
from prefixrack.validation import first_problem
from prefixrack_server.keeper import Keeper
from prefixrack_server.registry.aliases import ANY, Target
from prefixrack_server.registry.names import LATEST, check_movable_alias, check_name
from prefixrack_server.registry.registry import Registry
from prefixrack_server.sources import Sources
from prefixrack_server.uploads import Uploads

PAGE: Final = 1000
POLL_S: Final = 2.0
TURNS_TO_RETRY: Final = 15

Number = Annotated[int, Field(ge=1, le=999_999_999)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

log = structlog.stdlib.get_logger("prefixrack.declared")


class DeclarationFault(PrefixrackError):
    """The file cannot be read, or does not say what it should."""


class Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeclaredVersion(Declared):
    source: Annotated[str, Field(min_length=1)]
    digest: Sha256


class DeclaredCanary(Declared):
    version: Number
    share: Annotated[float, Field(gt=0, lt=1)]


class DeclaredAlias(Declared):
    version: Number
    canary: DeclaredCanary | None = None
    shadow: Number | None = None

    @property
    def target(self) -> Target:
        canary = self.canary
        if canary is None:
            return Target(self.version, shadow_number=self.shadow)
        return Target(self.version, canary.version, canary.share, self.shadow)


class DeclaredAdapter(Declared):
    versions: Annotated[dict[Number, DeclaredVersion], Field(min_length=1)]
    aliases: dict[str, DeclaredAlias] = {}

    @model_validator(mode="after")
    def _check_aliases(self) -> DeclaredAdapter:
        for alias, stand in self.aliases.items():
            check_movable_alias(alias)
            named = {stand.version, stand.shadow, None if stand.canary is None else stand.canary.version} - {None}
            missing = sorted(number for number in named - set(self.versions) if number is not None)
            if missing:
                raise ValueError(f"the alias {alias!r} names version {missing[0]}, which is not among the versions")
        return self


class Declaration(Declared):
    """The whole file: adapters by name, their versions by number, their aliases by name."""

    adapters: dict[str, DeclaredAdapter]

    @model_validator(mode="after")
    def _check_names(self) -> Declaration:
        for name in self.adapters:
            check_name(name)
        return self


def read_declaration(content: bytes) -> Declaration:
    """Raises DeclarationFault."""
    try:
        return Declaration.model_validate_json(content)
    except ValidationError as error:
        problem = first_problem(error)
        raise DeclarationFault(f"{problem.place or 'the file'}: {problem.sentence}") from None
    except Fault as fault:
        raise DeclarationFault(fault.detail) from None


class Follower:
    """Lives as long as the process. What cannot be had stays as it was, and is tried again."""

    def __init__(
        self, path: Path, tenant: str, registry: Registry, uploads: Uploads, sources: Sources, keeper: Keeper
    ) -> None:
        self._path = path
        self._tenant = tenant
        self._registry = registry
        self._uploads = uploads
        self._sources = sources
        self._keeper = keeper
        self._applied: str | None = None
        self._turns_to_retry = 0
        self._is_readable = True

    async def begin(self) -> None:
        """The first turn, before anybody is answered. A file that is not there or not right does not keep a server from
        starting: it has what it had before."""
        try:
            await self.turn()
        except DeclarationFault as error:
            log.error("the declared registry cannot be applied", file=str(self._path), reason=str(error))

    async def turn(self) -> None:
        """Look at the file, and where it has changed, or something failed a while ago, make the registry hold it."""
        content = await asyncio.to_thread(self._content)
        if content is None:
            return
        seen = hashlib.sha256(content).hexdigest()
        self._turns_to_retry -= 1
        if seen == self._applied and self._turns_to_retry != 0:
            return
        self._applied, self._turns_to_retry = seen, TURNS_TO_RETRY  # whatever ends this turn
        num_failed = await self.apply(read_declaration(content))
        self._turns_to_retry = TURNS_TO_RETRY if num_failed else 0
        log.info("the declared registry was applied", file=str(self._path), failed=num_failed)

    def _content(self) -> bytes | None:
        """None where the file cannot be read, which is logged once: a volume that is mounted anew is back soon."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            if self._is_readable:
                log.error("the declared registry cannot be read", file=str(self._path), reason=str(error))
            self._is_readable = False
            return None
        self._is_readable = True
        return content

    async def apply(self, declaration: Declaration) -> int:
        """New versions first, then aliases, then what is no longer declared. Returns how much could not be done."""
        num_failed = 0
        for name, adapter in declaration.adapters.items():
            try:
                await self._apply_adapter(name, adapter)
            except Fault as fault:
                num_failed += 1
                log.error("a declared adapter is not as declared", adapter=name, code=fault.code, detail=fault.detail)
        for name in await self._names():
            if name not in declaration.adapters:
                await self._remove(name)
        return num_failed

    async def _remove(self, name: str) -> None:
        try:
            removed = await self._registry.delete_adapter(self._tenant, name)
        except AdapterNotFound:
            return  # another front end, which reads the same file, was faster
        await self._keeper.let_go(removed)

    async def _apply_adapter(self, name: str, adapter: DeclaredAdapter) -> None:
        there = await self._numbers(name)
        for number, wanted in sorted(adapter.versions.items()):
            if there.get(number) != wanted.digest:
                await self._add(name, number, wanted)
        for alias, stand in adapter.aliases.items():
            await self._registry.put_alias(self._tenant, name, alias, stand.target, await self._match(name, alias))
        for info in await self._registry.list_aliases(self._tenant, name):
            if info.alias not in adapter.aliases and info.alias != LATEST:
                await self._registry.delete_alias(self._tenant, name, info.alias)
        for number in there:
            if number not in adapter.versions:
                await self._keeper.let_go(await self._registry.delete_version(self._tenant, name, number))

    async def _add(self, name: str, number: int, wanted: DeclaredVersion) -> None:
        with self._sources.scratch() as scratch:
            bundle = await self._sources.fetch(wanted.source, Path(scratch), is_trusted=True)
            await self._uploads.declare(self._tenant, name, number, bundle, wanted.digest)

    async def _match(self, name: str, alias: str) -> str | None:
        known = {info.alias for info in await self._registry.list_aliases(self._tenant, name)}
        return ANY if alias in known else None

    async def _numbers(self, name: str) -> dict[int, str]:
        """The digests of an adapter's versions by number; none where there is no such adapter."""
        if not await self._registry.digests(self._tenant, name):
            return {}
        found: dict[int, str] = {}
        cursor: str | None = None
        while True:
            page, cursor = await self._registry.list_versions(self._tenant, name, PAGE, cursor)
            found |= {info.version: info.digest for info in page}
            if cursor is None:
                return found

    async def _names(self) -> list[str]:
        names: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = await self._registry.list_adapters(self._tenant, PAGE, cursor)
            names += [summary.name for summary in page]
            if cursor is None:
                return names
