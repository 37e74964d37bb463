"""The idempotency keys: an upload sent twice under one key is one upload. Knows nothing of what was uploaded but its
digest."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import and_, delete, insert, select

from prefixrack.errors import IdempotencyConflict, InvalidRequest
from prefixrack_server.registry import tables, versions
from prefixrack_server.registry.database import Write, as_text
from prefixrack_server.registry.transactions import Conn
from prefixrack_server.registry.versions import Version

LIFETIME: Final = timedelta(hours=24)
MAX_KEY_LEN: Final = 255


async def recall(conn: Conn, tenant: str, key: str, digest: str, name: str | None, now: datetime) -> Version | None:
    """The version that an earlier upload under this key made. Raises IdempotencyConflict if that was another upload."""
    check_key(key)
    table = tables.idempotency_keys
    mine = and_(table.c.tenant == tenant, table.c.key == key, table.c.created_at > as_text(now - LIFETIME))
    row = (await conn.execute(select(table).where(mine))).mappings().first()
    if row is None:
        return None
    if row["digest"] != digest or name not in (None, row["name"]):
        raise IdempotencyConflict(
            f"Idempotency-Key {key!r} was used for {row['name']}@{row['number']} with digest {row['digest']}, this "
            f"upload is {name or row['name']} with digest {digest}: use a new key for other content"
        )
    return await versions.get(conn, tenant, row["name"], row["number"])


async def remember(write: Write, tenant: str, key: str, version: Version) -> None:
    """Keep the key for a day; the day-old ones go."""
    table = tables.idempotency_keys
    await write.conn.execute(delete(table).where(table.c.created_at <= as_text(write.now - LIFETIME)))
    row = {"tenant": tenant, "key": key, "digest": version.digest, "name": version.name, "number": version.number}
    await write.conn.execute(insert(table).values(**row, created_at=write.now_text))


def check_key(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY_LEN:
        raise InvalidRequest(f"Idempotency-Key has {len(key)} characters: 1 to {MAX_KEY_LEN} are allowed")
