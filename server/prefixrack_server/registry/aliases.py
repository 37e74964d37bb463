"""The aliases: movable names for versions. Promotion and rollback are one call, guarded by entity tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, RowMapping, Select, and_, delete, insert, select, update

from prefixrack.errors import AliasNotFound, Conflict, PreconditionFailed, PreconditionRequired
from prefixrack.types import AliasInfo, CanaryInfo, Claim
from prefixrack_server.registry import gates, tables, versions
from prefixrack_server.registry.database import Write
from prefixrack_server.registry.names import LATEST, check_alias, check_movable_alias
from prefixrack_server.registry.requirements import check_all
from prefixrack_server.registry.transactions import Conn

ANY: Final = "*"


async def get(conn: Conn, tenant: str, name: str, alias: str) -> AliasInfo:
    """Raises AdapterNotFound or AliasNotFound."""
    if check_alias(alias) == LATEST:
        return await _latest(conn, tenant, name)
    found = await _find(conn, tenant, name, alias)
    if found is None:
        await versions.latest_number(conn, tenant, name)
        raise AliasNotFound(f"adapter {name!r} has no alias {alias!r}: promote a version first, or list its aliases")
    return found


async def every(conn: Conn, tenant: str, name: str) -> list[AliasInfo]:
    """`latest` first, then the others by name."""
    first = await _latest(conn, tenant, name)
    chosen = _select().where(versions.of_adapter(tables.aliases, tenant, name)).order_by(tables.aliases.c.alias)
    return [first, *(_as_info(row) for row in (await conn.execute(chosen)).mappings())]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an alias is to stand, as a whole: what is not named is not there afterwards."""

    number: int
    canary_number: int | None = None
    canary_share: float | None = None
    shadow_number: int | None = None

    @property
    def answering(self) -> list[int]:
        """The versions that callers get answers of."""
        return [self.number] if self.canary_number is None else [self.number, self.canary_number]


async def standing(conn: Conn, tenant: str, name: str, alias: str) -> AliasInfo | None:
    """A movable alias, None where there is none of this name."""
    return await _find(conn, tenant, name, alias)


async def put(
    write: Write,
    tenant: str,
    name: str,
    alias: str,
    target: Target,
    if_match: str | None,
    if_none_match: str | None,
    require: Sequence[str] = (),
) -> AliasInfo:
    """Point the alias at versions whose claims meet what is required, here and by the alias' gates.

    Raises PreconditionRequired, PreconditionFailed, RequirementNotMet or InvalidRequest, and then changes nothing.
    """
    check_movable_alias(alias)
    required = list(dict.fromkeys([*await gates.get(write.conn, tenant, name, alias), *require]))
    claims = [claim for number in target.answering for claim in await _claims(write, tenant, name, number, required)]
    if target.shadow_number is not None:
        await versions.get(write.conn, tenant, name, target.shadow_number)
    current = await _find(write.conn, tenant, name, alias)
    if current is None:
        _check_absent(alias, if_match)
        await _insert(write, tenant, name, alias, target)
    else:
        _check_current(current, if_match, if_none_match)
        await _move(write, tenant, current, target)
    moved = await get(write.conn, tenant, name, alias)
    return moved.model_copy(update={"claims": claims})


async def roll_back(write: Write, tenant: str, name: str, alias: str, if_match: str | None) -> AliasInfo:
    """Take a canary and a shadow away, or where there is no canary, return to the version before.

    Gates are not asked: they were when that version was promoted. Raises AliasNotFound, or PreconditionFailed where
    there is nothing to roll back to.
    """
    check_movable_alias(alias)
    current = await get(write.conn, tenant, name, alias)
    if if_match is not None:
        _check_tag(current, if_match)
    back_to = current.version if current.canary is not None else current.previous_version
    if back_to is None:
        raise PreconditionFailed(
            f"alias {alias!r} of {name!r} has been on version {current.version} only: there is nothing to roll back "
            "to; promote the version that you want"
        )
    await _move(write, tenant, current, Target(back_to))
    return await get(write.conn, tenant, name, alias)


async def _claims(write: Write, tenant: str, name: str, number: int, required: Sequence[str]) -> list[Claim]:
    version = await versions.get(write.conn, tenant, name, number)
    return check_all(version.ref, version.manifest.metrics, required)


async def remove(write: Write, tenant: str, name: str, alias: str, if_match: str | None) -> AliasInfo:
    """Take the alias away; the version stays. `if_match` is checked where it is given."""
    check_movable_alias(alias)
    current = await get(write.conn, tenant, name, alias)
    if if_match is not None:
        _check_tag(current, if_match)
    if await gates.get(write.conn, tenant, name, alias):
        raise Conflict(f"the alias {alias!r} of {name!r} is protected: remove its gates first")
    await write.conn.execute(delete(tables.aliases).where(_at(tenant, name, alias)))
    return current


def _check_absent(alias: str, if_match: str | None) -> None:
    if if_match is not None:
        raise PreconditionFailed(
            f"If-Match is {if_match}, but the alias {alias!r} does not exist yet: send it without If-Match"
        )


def _check_current(current: AliasInfo, if_match: str | None, if_none_match: str | None) -> None:
    where = f"the alias {current.alias!r} stands on version {current.version} with entity tag {current.etag}"
    if if_none_match is not None:
        raise PreconditionFailed(f"If-None-Match is {if_none_match}, but {where}: send If-Match to move it")
    if if_match is None:
        raise PreconditionRequired(f"{where}: send this tag in If-Match to move it, or * to move it in any case")
    _check_tag(current, if_match)


def _check_tag(current: AliasInfo, if_match: str) -> None:
    allowed = {tag.strip() for tag in if_match.split(",")}
    if not allowed & {ANY, current.etag}:
        raise PreconditionFailed(
            f"If-Match is {if_match}, but the alias {current.alias!r} was changed meanwhile: it stands on version "
            f"{current.version} with entity tag {current.etag}; look at it again, then decide"
        )


async def _insert(write: Write, tenant: str, name: str, alias: str, target: Target) -> None:
    row = {"tenant": tenant, "name": name, "alias": alias, **asdict(target)}
    await write.conn.execute(insert(tables.aliases).values(**row, revision=write.revision, updated_at=write.now_text))


async def _move(write: Write, tenant: str, current: AliasInfo, target: Target) -> None:
    if target == _target_of(current):
        return
    values = {**asdict(target), "revision": write.revision, "updated_at": write.now_text}
    if target.number != current.version:
        values["previous_number"] = current.version
    await write.conn.execute(update(tables.aliases).where(_at(tenant, current.name, current.alias)).values(**values))


def _target_of(info: AliasInfo) -> Target:
    canary = info.canary
    number, share = (None, None) if canary is None else (canary.version, canary.share)
    return Target(info.version, number, share, info.shadow_version)


async def _find(conn: Conn, tenant: str, name: str, alias: str) -> AliasInfo | None:
    row = (await conn.execute(_select().where(_at(tenant, name, alias)))).mappings().first()
    return None if row is None else _as_info(row)


async def _latest(conn: Conn, tenant: str, name: str) -> AliasInfo:
    number = await versions.latest_number(conn, tenant, name)
    version = await versions.get(conn, tenant, name, number)
    return AliasInfo(name=name, alias=LATEST, version=number, digest=version.digest, etag=f'"latest-{number}"')


def _at(tenant: str, name: str, alias: str) -> ColumnElement[bool]:
    return and_(versions.of_adapter(tables.aliases, tenant, name), tables.aliases.c.alias == alias)


def _select() -> Select[Any]:
    aliases, table, canaries = tables.aliases, tables.versions, tables.versions.alias("canaries")
    same = and_(*(aliases.c[key] == table.c[key] for key in ("tenant", "name", "number")))
    same_canary = and_(
        *(aliases.c[key] == canaries.c[key] for key in ("tenant", "name")), aliases.c.canary_number == canaries.c.number
    )
    chosen = select(aliases, table.c.digest, canaries.c.digest.label("canary_digest"))
    return chosen.join(table, same).outerjoin(canaries, same_canary)


def _as_info(row: RowMapping) -> AliasInfo:
    number, digest = row["canary_number"], row["canary_digest"]
    return AliasInfo(
        name=row["name"],
        alias=row["alias"],
        version=row["number"],
        digest=row["digest"],
        etag=f'"{row["revision"]}"',
        previous_version=row["previous_number"],
        canary=None if number is None else CanaryInfo(version=number, digest=digest, share=row["canary_share"]),
        shadow_version=row["shadow_number"],
    )
