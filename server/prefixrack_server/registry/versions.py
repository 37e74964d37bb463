"""The versions: immutable, numbered per adapter, found by name, alias or number. Knows no blobs and no HTTP.

Functions that take a `Write` belong to the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, RowMapping, and_, delete, func, insert, or_, select, update

from prefixrack.errors import AliasNotFound, Conflict, VersionNotFound
from prefixrack_adapters.manifest import Manifest
from prefixrack_server.messages import BundleRef
from prefixrack_server.registry import tables
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.names import LATEST, PRODUCTION, Ref, unknown_adapter
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.upload import SpooledBundle


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable adapter version. `size_bytes` is that of its two files, `created_by` the id of an API key."""

    tenant: str
    name: str
    number: int
    bundle: BundleRef
    manifest: Manifest
    size_bytes: int
    created_at: str
    created_by: str
    card: str | None
    kept: bool = False

    @property
    def digest(self) -> str:
        return self.bundle.digest

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


class Taken(NamedTuple):
    """What is left to say of a version that was removed."""

    bundle: BundleRef
    kept: bool


def of_adapter(table: Any, tenant: str, name: str) -> ColumnElement[bool]:
    return and_(table.c.tenant == tenant, table.c.name == name)


def of_version(table: Any, tenant: str, name: str, number: int) -> ColumnElement[bool]:
    return and_(of_adapter(table, tenant, name), table.c.number == number)


def as_version(row: RowMapping) -> Version:
    return Version(
        tenant=row["tenant"],
        name=row["name"],
        number=row["number"],
        bundle=BundleRef(row["digest"], row["manifest_sha256"], row["tensors_sha256"]),
        manifest=Manifest.model_validate(row["manifest"]),
        size_bytes=row["size_bytes"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        card=row["card"],
        kept=row["kept"],
    )


async def find(conn: Conn, tenant: str, ref: Ref) -> Version:
    """The version that a reference names. Raises AdapterNotFound, VersionNotFound or AliasNotFound."""
    number = ref.number if ref.number is not None else await pointed_number(conn, tenant, ref)
    return await get(conn, tenant, ref.name, number)


async def get(conn: Conn, tenant: str, name: str, number: int) -> Version:
    table = tables.versions
    found = (await conn.execute(select(table).where(of_version(table, tenant, name, number)))).mappings().first()
    if found is None:
        newest = await latest_number(conn, tenant, name)
        raise VersionNotFound(f"adapter {name!r} has no version {number}: its latest is {newest}")
    return as_version(found)


async def pointed_number(conn: Conn, tenant: str, ref: Ref) -> int:
    """Where the alias stands; without one, `production` if it is set, else the latest."""
    if ref.alias == LATEST:
        return await latest_number(conn, tenant, ref.name)
    table, alias = tables.aliases, ref.alias or PRODUCTION
    at_alias = and_(of_adapter(table, tenant, ref.name), table.c.alias == alias)
    number = await conn.scalar(select(table.c.number).where(at_alias))
    if number is not None:
        return int(number)
    newest = await latest_number(conn, tenant, ref.name)
    if ref.alias is not None:
        raise AliasNotFound(f"adapter {ref.name!r} has no alias {alias!r}: use {ref.name}@{newest} or set the alias")
    return newest


async def latest_number(conn: Conn, tenant: str, name: str) -> int:
    """Raises AdapterNotFound for an adapter without versions."""
    table = tables.versions
    number = await conn.scalar(select(func.max(table.c.number)).where(of_adapter(table, tenant, name)))
    if number is None:
        raise unknown_adapter(name)
    return int(number)


async def find_digest(conn: Conn, tenant: str, name: str, digest: str) -> Version | None:
    table = tables.versions
    same = and_(of_adapter(table, tenant, name), table.c.digest == digest)
    row = (await conn.execute(select(table).where(same))).mappings().first()
    return None if row is None else as_version(row)


async def find_number(conn: Conn, tenant: str, name: str, number: int) -> Version | None:
    table = tables.versions
    row = (await conn.execute(select(table).where(of_version(table, tenant, name, number)))).mappings().first()
    return None if row is None else as_version(row)


async def is_known_name(conn: Conn, tenant: str, name: str) -> bool:
    table = tables.adapters
    return await conn.scalar(select(table.c.name).where(of_adapter(table, tenant, name))) is not None


async def digests_of(conn: Conn, tenant: str, name: str) -> set[str]:
    table = tables.versions
    return set((await conn.execute(select(table.c.digest).where(of_adapter(table, tenant, name)))).scalars())


async def find_kept(conn: Conn) -> list[Version]:
    """The versions of all tenants that stay resident by an administrator's wish."""
    table = tables.versions
    chosen = select(table).where(table.c.kept).order_by(table.c.tenant, table.c.name, table.c.number)
    return [as_version(row) for row in (await conn.execute(chosen)).mappings()]


async def insert_version(
    write: Write, tenant: str, name: str, upload: SpooledBundle, manifest: Manifest, created_by: str
) -> Version:
    """Add a version under the adapter's next number; the unique constraints stand behind the writers' lock."""
    number = await _take_number(write, tenant, name)
    bundle = BundleRef(upload.digest, upload.manifest_sha256, upload.tensors_sha256)
    version = Version(
        tenant, name, number, bundle, manifest, upload.size_bytes, write.now_text, created_by, upload.card
    )
    row = {
        "tenant": tenant,
        "name": name,
        "number": number,
        "digest": bundle.digest,
        "manifest_sha256": bundle.manifest_sha256,
        "tensors_sha256": bundle.tensors_sha256,
        "card": version.card,
        "manifest": manifest.model_dump(mode="json"),
        "size_bytes": version.size_bytes,
        "created_at": version.created_at,
        "created_by": version.created_by,
        "kept": version.kept,
    }
    await write.conn.execute(insert(tables.versions), row)
    return version


async def _take_number(write: Write, tenant: str, name: str) -> int:
    table = tables.adapters
    counted = update(table).where(of_adapter(table, tenant, name)).values(last_number=table.c.last_number + 1)
    number = (await write.conn.execute(counted.returning(table.c.last_number))).scalar()
    if number is not None:
        return int(number)
    first = {"tenant": tenant, "name": name, "last_number": 1, "created_at": write.now_text}
    await write.conn.execute(insert(table), first)
    return 1


async def reserve_number(write: Write, tenant: str, name: str, number: int) -> None:
    """Let the next version have this number. Raises Conflict for one that was given out already."""
    table = tables.adapters
    last = await write.conn.scalar(select(table.c.last_number).where(of_adapter(table, tenant, name)))
    if last is None:
        first = {"tenant": tenant, "name": name, "last_number": number - 1, "created_at": write.now_text}
        await write.conn.execute(insert(table), first)
        return
    if number <= last:
        raise Conflict(f"version {number} of {name!r} is or was another one, up to {last} all are: use a new number")
    await write.conn.execute(update(table).where(of_adapter(table, tenant, name)).values(last_number=number - 1))


async def set_kept(write: Write, tenant: str, name: str, number: int, kept: bool) -> Version:
    await get(write.conn, tenant, name, number)
    table = tables.versions
    await write.conn.execute(update(table).where(of_version(table, tenant, name, number)).values(kept=kept))
    return await get(write.conn, tenant, name, number)


async def delete_version(write: Write, tenant: str, name: str, number: int) -> Version:
    """Remove one version. Raises Conflict while an alias stands on it."""
    version = await get(write.conn, tenant, name, number)
    await _check_unaliased(write.conn, tenant, name, number)
    aliases, keys, table = tables.aliases, tables.idempotency_keys, tables.versions
    forgotten = and_(of_adapter(aliases, tenant, name), aliases.c.previous_number == number)
    await write.conn.execute(update(aliases).where(forgotten).values(previous_number=None))
    await write.conn.execute(delete(keys).where(of_version(keys, tenant, name, number)))
    await write.conn.execute(delete(table).where(of_version(table, tenant, name, number)))
    return version


async def delete_adapter(write: Write, tenant: str, name: str) -> Sequence[Taken]:
    """Remove all versions and aliases of an adapter; its row stays, and with it the count of its numbers."""
    table = tables.versions
    taken = select(table.c.digest, table.c.manifest_sha256, table.c.tensors_sha256, table.c.kept)
    rows = (await write.conn.execute(taken.where(of_adapter(table, tenant, name)))).all()
    if not rows:
        raise unknown_adapter(name)
    for pointing in (tables.aliases, tables.alias_gates, tables.idempotency_keys, table):
        await write.conn.execute(delete(pointing).where(of_adapter(pointing, tenant, name)))
    return [Taken(BundleRef(*bundle), kept) for *bundle, kept in rows]


async def _check_unaliased(conn: Conn, tenant: str, name: str, number: int) -> None:
    table = tables.aliases
    uses = or_(*(column == number for column in (table.c.number, table.c.canary_number, table.c.shadow_number)))
    standing = select(table.c.alias).where(of_adapter(table, tenant, name), uses).order_by(table.c.alias)
    found = (await conn.execute(standing)).scalars().all()
    if found:
        raise Conflict(
            f"version {number} of {name!r} carries the alias {', '.join(found)}: move or delete the alias first"
        )
