"""The API keys: who may do what. A secret is shown once; at rest there is its sha256 only.

The secrets have 256 random bits, so a plain fast hash is enough: there is no guessable password to slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from sqlalchemy import ColumnElement, RowMapping, and_, insert, or_, select, tuple_, update

from prefixrack.errors import (
    Conflict,
    Forbidden,
    InvalidKey,
    InvalidRequest,
    InvalidToken,
    KeyNotFound,
    TenantDisabled,
    TenantNotFound,
)
from prefixrack.types import KeyInfo
from prefixrack_server.config import Scope
from prefixrack_server.registry import tables, tenants
from prefixrack_server.registry.cursors import foreign_cursor
from prefixrack_server.registry.database import Write, as_text
from prefixrack_server.registry.patterns import check_patterns
from prefixrack_server.registry.principal import Principal, TokenClaims
from prefixrack_server.registry.transactions import Conn

SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
# A key with one of these may do everything in its tenant; "admin" everything in every tenant.
ADMIN_SCOPES: Final = frozenset({"tenant:admin", "admin"})
NUM_ID_BYTES: Final = 6
NUM_SECRET_BYTES: Final = 32
MAX_NAME_LEN: Final = 100

_KEY: Final = re.compile(r"pr_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
NO_SHA256: Final = "-" * 64  # equal to no sha256
NEXT_STEP: Final = "make a new one with `prefixrack keys create`"


def key_sha256(key: str) -> str:
    """Raises InvalidKey for what cannot be a key at all; the text itself is never repeated."""
    if not _KEY.fullmatch(key):
        raise InvalidKey(f"the API key does not have the form pr_<id>_<secret>: check it, or {NEXT_STEP}")
    return hashlib.sha256(key.encode()).hexdigest()


def check_unexpired(principal: Principal, now: datetime) -> Principal:
    """Raises InvalidKey once the key has expired."""
    if principal.expires_at is not None and principal.expires_at <= as_text(now):
        raise InvalidKey(f"the key or token {principal.key_id} expired at {principal.expires_at}: {NEXT_STEP}")
    return principal


async def find_principal(conn: Conn, key: str) -> Principal:
    """Whose the key is. Raises InvalidKey if it is unknown or revoked, TenantDisabled if its tenant is."""
    sha256 = key_sha256(key)
    table, owners = tables.api_keys, tables.tenants
    of_owner: list[Any] = [owners.c[name] for name in ("weight", *tenants.QUOTAS, "disabled_at")]
    chosen = select(table, *of_owner, owners.c.adapters.label("tenant_adapters")).join(owners)
    row = (await conn.execute(chosen.where(table.c.id == _id_of(key)))).mappings().first()
    # An id that is not there takes the comparison too: neither the answer nor its time tells the two apart.
    if not hmac.compare_digest(NO_SHA256 if row is None else row["key_sha256"], sha256) or row is None:
        raise InvalidKey(f"the API key is not known to this server: check it, or {NEXT_STEP}")
    if row["revoked_at"] is not None:
        raise InvalidKey(f"the API key {row['id']} was revoked at {row['revoked_at']}: {NEXT_STEP}")
    _check_enabled(row["tenant"], row["disabled_at"])
    return _principal(row)


async def token_principal(conn: Conn, claims: TokenClaims) -> Principal:
    """Whom a verified token speaks for. Raises InvalidToken or TenantDisabled."""
    try:
        tenant = await tenants.get(conn, claims.tenant)
    except TenantNotFound:
        raise InvalidToken("the token names no tenant of this server: ask an administrator") from None
    _check_enabled(tenant.name, tenant.disabled_at)
    patterns = (tuple(tenant.adapters),) if tenant.adapters else ()
    expires_at = as_text(claims.expires_at)
    return Principal(
        claims.key_id, tenant.name, claims.scopes, tenant.weight, tenant.quotas, patterns, expires_at=expires_at
    )


def _check_enabled(tenant: str, disabled_at: str | None) -> None:
    if disabled_at is not None:
        raise TenantDisabled(f"the tenant {tenant!r} was disabled at {disabled_at}: ask an administrator")


def _principal(row: RowMapping) -> Principal:
    return Principal(
        key_id=row["id"],
        tenant=row["tenant"],
        scopes=frozenset(row["scopes"]),
        weight=row["weight"],
        quotas=tenants.quotas_of(row),
        patterns=tuple(tuple(some) for some in (row["adapters"], row["tenant_adapters"]) if some),
        key_name=row["name"],
        expires_at=row["expires_at"],
    )


async def create(
    write: Write,
    tenant: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
    adapters: Iterable[str] = (),
    name: str | None = None,
    replaces: str | None = None,
) -> KeyInfo:
    """A new key; only this answer holds the secret. `adapters` are patterns of the names that it is limited to,
    `replaces` is the id of the key whose successor it is.

    Raises TenantNotFound, or InvalidRequest for scopes, patterns or a name that cannot be.
    """
    wanted, patterns = _check_scopes(scopes), check_patterns(adapters)
    _check_name(name)
    _check_limited(wanted, patterns)
    await tenants.get(write.conn, tenant)
    key_id = secrets.token_hex(NUM_ID_BYTES)
    key = f"pr_{key_id}_{secrets.token_urlsafe(NUM_SECRET_BYTES)}"
    row = {
        "id": key_id,
        "tenant": tenant,
        "key_sha256": key_sha256(key),
        "scopes": wanted,
        "created_at": write.now_text,
        "expires_at": None if expires_at is None else as_text(expires_at),
        "adapters": patterns,
        "name": name,
        "replaces": replaces,
    }
    await write.conn.execute(insert(tables.api_keys).values(**row))
    return _as_info(await _get(write.conn, tenant, key_id), key)


async def page(conn: Conn, tenant: str, limit: int, cursor: str | None) -> tuple[list[KeyInfo], str | None]:
    """The tenant's keys that are not revoked, oldest first, without secrets, after the key with the id `cursor`.

    A cursor holds though its key is revoked meanwhile: the row stays. Raises InvalidRequest for a cursor of no key.
    """
    table = tables.api_keys
    chosen = select(table).where(table.c.tenant == tenant, table.c.revoked_at.is_(None))
    if cursor is not None:
        chosen = chosen.where(tuple_(table.c.created_at, table.c.id) > await _place(conn, tenant, cursor))
    ordered = chosen.order_by(table.c.created_at, table.c.id).limit(limit + 1)
    found = [_as_info(row) for row in (await conn.execute(ordered)).mappings()]
    return found[:limit], found[limit - 1].id if len(found) > limit else None


async def rotate(write: Write, tenant: str, key_id: str, may_rotate_admins: bool, overlap: timedelta | None) -> KeyInfo:
    """A second key that may do what the first one may, for as long as that one was made for. Both hold, until the
    first is revoked or `overlap` is over.

    Raises KeyNotFound, Forbidden for a key with scope `admin` that the caller may not rotate, or Conflict for a key
    that does not hold or has a successor that does: a key has two lives at most.
    """
    row = await _get_own(write.conn, tenant, key_id, may_rotate_admins, "rotate")
    await _check_rotatable(write, row)
    expires_at = row["expires_at"] and write.now + (_moment(row["expires_at"]) - _moment(row["created_at"]))
    made = await create(write, tenant, row["scopes"], expires_at, row["adapters"], row["name"], key_id)
    if overlap is not None:
        ends_at = min(filter(None, (row["expires_at"], as_text(write.now + overlap))))
        table = tables.api_keys
        await write.conn.execute(update(table).where(table.c.id == key_id).values(expires_at=ends_at))
    return made


async def _check_rotatable(write: Write, row: RowMapping) -> None:
    table, key_id = tables.api_keys, row["id"]
    if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= write.now_text):
        raise Conflict(f"the key {key_id} is revoked or has expired: {NEXT_STEP}")
    successors = select(table.c.id).where(table.c.replaces == key_id, _is_live(write))
    successor = await write.conn.scalar(successors)
    if successor is not None:
        raise Conflict(
            f"the key {key_id} and its successor {successor} both hold: revoke {key_id} once nobody uses it any more, "
            f"and rotate {successor} then"
        )


async def revoke(write: Write, tenant: str, key_id: str, may_revoke_admins: bool) -> None:
    """A key revoked before keeps its first time.

    Raises KeyNotFound, Forbidden for a key with scope `admin` that the caller may not revoke, or Conflict for the last.
    """
    row = await _get_own(write.conn, tenant, key_id, may_revoke_admins, "revoke")
    if row["revoked_at"] is None:
        table = tables.api_keys
        await _check_not_last_admin(write, key_id)
        await write.conn.execute(update(table).where(table.c.id == key_id).values(revoked_at=write.now_text))


async def _check_not_last_admin(write: Write, key_id: str) -> None:
    """Without a key that holds and has the scope `admin` nobody could make one any more."""
    if await admin_ids(write) == [key_id]:
        raise Conflict(f"the key {key_id} is the last with the scope 'admin': make another one before revoking it")


async def admin_ids(write: Write) -> list[str]:
    """The keys with the scope `admin` that hold now: neither revoked nor expired, and of no disabled tenant."""
    table, owners = tables.api_keys, tables.tenants
    holds = and_(_is_live(write), owners.c.disabled_at.is_(None))
    rows = await write.conn.execute(select(table.c.id, table.c.scopes).join(owners).where(holds))
    return [row.id for row in rows if "admin" in row.scopes]


def _is_live(write: Write) -> ColumnElement[bool]:
    """Neither revoked nor expired."""
    table = tables.api_keys
    return and_(table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > write.now_text))


async def is_any(conn: Conn) -> bool:
    """Whether there ever was a key, a revoked one included."""
    return (await conn.execute(select(tables.api_keys.c.id).limit(1))).first() is not None


async def _get(conn: Conn, tenant: str, key_id: str) -> RowMapping:
    table = tables.api_keys
    mine = and_(table.c.tenant == tenant, table.c.id == key_id)
    row = (await conn.execute(select(table).where(mine))).mappings().first()
    if row is None:
        raise KeyNotFound(f"there is no API key with the id {key_id[:80]!r}: list the keys to see their ids")
    return row


async def _get_own(conn: Conn, tenant: str, key_id: str, is_admin: bool, to_do: str) -> RowMapping:
    """For who manages keys: those of admins of all tenants are managed by such admins."""
    row = await _get(conn, tenant, key_id)
    if "admin" in row["scopes"] and not is_admin:
        raise Forbidden(f"the key {key_id} has the scope 'admin': only a key with that scope can {to_do} it")
    return row


async def _place(conn: Conn, tenant: str, cursor: str) -> tuple[str, str]:
    table = tables.api_keys
    chosen = select(table.c.created_at, table.c.id).where(table.c.tenant == tenant, table.c.id == cursor)
    row = (await conn.execute(chosen)).first()
    if row is None:
        raise foreign_cursor(cursor)
    return row.created_at, row.id


def _check_limited(scopes: Iterable[str], patterns: Iterable[str]) -> None:
    """Whoever manages keys could make itself one without the patterns."""
    managing = sorted(ADMIN_SCOPES & set(scopes))
    if managing and patterns:
        raise InvalidRequest(
            f"a key with the scope {managing[0]!r} may use every adapter: leave out `adapters`, or give it "
            f"{', '.join(sorted(SCOPES - ADMIN_SCOPES))} at most"
        )


def _check_name(name: str | None) -> None:
    """Raises InvalidRequest for what would not be seen as it is."""
    if name is not None and not (0 < len(name) <= MAX_NAME_LEN and name.isprintable() and name == name.strip()):
        seen = f"is {name!a}" if len(name) <= MAX_NAME_LEN else f"has {len(name)} characters"
        raise InvalidRequest(
            f"name {seen}: 1 to {MAX_NAME_LEN} printable characters are allowed, none of them a space at an end"
        )


def _check_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        seen = ", ".join(unknown) or "nothing"
        raise InvalidRequest(f"scopes name {seen}: one or more of {', '.join(sorted(SCOPES))} are allowed")
    return wanted


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _id_of(key: str) -> str:
    found = _KEY.fullmatch(key)
    return found[1] if found else ""


def _as_info(row: RowMapping, secret: str | None = None) -> KeyInfo:
    return KeyInfo(
        id=row["id"],
        tenant=row["tenant"],
        scopes=row["scopes"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        adapters=row["adapters"],
        name=row["name"],
        replaces=row["replaces"],
        secret=secret,
    )
