"""The tables: the registry's schema in portable SQL (SQLite, or PostgreSQL where several replicas share it).

Times are ISO 8601 text in UTC with milliseconds and `Z`, so that their order as text is their order in time.
Changing a table here needs a migration in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)


def by_bytes(length: int) -> String:
    """Text that is ordered by its bytes in every database: PostgreSQL would order it by a language's rules."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


NAME: Final = by_bytes(63)
SHA256: Final = by_bytes(64)
TIME: Final = by_bytes(32)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row. Every write adds one to it first: replicas poll it, and its row lock makes writers take turns.
revision = Table(
    "revision",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

# A quota that is null has no limit; `adapters` lists patterns of names, none means all names.
tenants = Table(
    "tenants",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("created_at", TIME, nullable=False),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("max_adapters", BigInteger),
    Column("max_bytes", BigInteger),
    Column("adapters", JSON, nullable=False, server_default="[]"),
    Column("disabled_at", TIME),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", NAME, ForeignKey("tenants.name"), nullable=False),
    Column("key_sha256", SHA256, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("expires_at", TIME),
    Column("revoked_at", TIME),
    Column("adapters", JSON, nullable=False, server_default="[]"),
    Column("name", String(100)),
    Column("replaces", String(32)),
)

# A row stays when the adapter is deleted: its numbers are never given out again.
adapters = Table(
    "adapters",
    metadata,
    Column("tenant", NAME, ForeignKey("tenants.name"), primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("last_number", Integer, nullable=False),
    Column("created_at", TIME, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", SHA256, nullable=False),
    Column("manifest_sha256", SHA256, nullable=False),
    Column("tensors_sha256", SHA256, nullable=False),
    Column("card", Text),
    Column("manifest", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("kept", Boolean, nullable=False),
    ForeignKeyConstraint(["tenant", "name"], ["adapters.tenant", "adapters.name"]),
    UniqueConstraint("tenant", "name", "digest"),
)
Index(None, versions.c.manifest_sha256)
Index(None, versions.c.tensors_sha256)

# `revision` is that of the last change and makes the entity tag; `previous_number` is where a rollback goes. A canary
# answers a share of the requests, a shadow computes them and answers nobody.
aliases = Table(
    "aliases",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("alias", NAME, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("previous_number", Integer),
    Column("canary_number", Integer),
    Column("canary_share", Float),
    Column("shadow_number", Integer),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", TIME, nullable=False),
    ForeignKeyConstraint(["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]),
)

# What each promotion of a protected alias must show; the alias need not be there yet.
alias_gates = Table(
    "alias_gates",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("alias", NAME, primary_key=True),
    Column("require", JSON, nullable=False),
    Column("updated_at", TIME, nullable=False),
    ForeignKeyConstraint(["tenant", "name"], ["adapters.tenant", "adapters.name"]),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", SHA256, nullable=False),
    Column("name", NAME, nullable=False),
    Column("number", Integer, nullable=False),
    Column("created_at", TIME, nullable=False, index=True),
    ForeignKeyConstraint(["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]),
)

# Rows are only ever added: triggers refuse everything else.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", TIME, nullable=False),
    Column("tenant", NAME, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("request_id", String(128)),
)

Index(None, audit.c.tenant, audit.c.id)

usage = Table(
    "usage",
    metadata,
    Column("tenant", NAME, ForeignKey("tenants.name"), primary_key=True),
    Column("day", by_bytes(10), primary_key=True),
    Column("adapter", by_bytes(127), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
)

# Blobs that lost their last version, and when: they stay readable for a while, for requests already bound to them.
dead_blobs = Table(
    "dead_blobs",
    metadata,
    Column("sha256", SHA256, primary_key=True),
    Column("since", TIME, nullable=False),
)

# Work that one replica does for all, such as the sweep, and when it was last begun.
chores = Table(
    "chores",
    metadata,
    Column("chore", String(32), primary_key=True),
    Column("begun_at", TIME, nullable=False),
)
