"""The first schema. A migration states its tables in full: `tables.py` moves on, this file does not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def by_bytes(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    _create_revision()
    _create_tenants_and_keys()
    _create_adapters_and_versions()
    _create_pointers_to_versions()
    _create_records()


def _create_revision() -> None:
    revision_table = op.create_table(
        "revision",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), autoincrement=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.bulk_insert(revision_table, [{"id": 1, "value": 0}])


def _create_tenants_and_keys() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", by_bytes(63)),
        sa.Column("created_at", by_bytes(32), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32)),
        sa.Column("tenant", by_bytes(63), nullable=False),
        sa.Column("key_sha256", by_bytes(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", by_bytes(32), nullable=False),
        sa.Column("expires_at", by_bytes(32)),
        sa.Column("revoked_at", by_bytes(32)),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"]),
    )


def _create_adapters_and_versions() -> None:
    op.create_table(
        "adapters",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("name", by_bytes(63)),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.Column("created_at", by_bytes(32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"]),
    )
    op.create_table(
        "versions",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("name", by_bytes(63)),
        sa.Column("number", sa.Integer, autoincrement=False),
        sa.Column("digest", by_bytes(64), nullable=False),
        sa.Column("manifest_sha256", by_bytes(64), nullable=False, index=True),
        sa.Column("tensors_sha256", by_bytes(64), nullable=False, index=True),
        sa.Column("card", sa.Text),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", by_bytes(32), nullable=False),
        sa.Column("created_by", by_bytes(64), nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "number"),
        sa.ForeignKeyConstraint(["tenant", "name"], ["adapters.tenant", "adapters.name"]),
        sa.UniqueConstraint("tenant", "name", "digest"),
    )


def _create_pointers_to_versions() -> None:
    key = ["tenant", "name", "number"]
    op.create_table(
        "aliases",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("name", by_bytes(63)),
        sa.Column("alias", by_bytes(63)),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("previous_number", sa.Integer),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("updated_at", by_bytes(32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "alias"),
        sa.ForeignKeyConstraint(key, [f"versions.{column}" for column in key]),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("key", sa.String(255)),
        sa.Column("digest", by_bytes(64), nullable=False),
        sa.Column("name", by_bytes(63), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("created_at", by_bytes(32), nullable=False, index=True),
        sa.PrimaryKeyConstraint("tenant", "key"),
        sa.ForeignKeyConstraint(key, [f"versions.{column}" for column in key]),
    )


def _create_records() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True),
        sa.Column("at", by_bytes(32), nullable=False),
        sa.Column("tenant", by_bytes(63), nullable=False),
        sa.Column("key_id", by_bytes(64), nullable=False),
        sa.Column("action", by_bytes(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "dead_blobs",
        sa.Column("sha256", by_bytes(64)),
        sa.Column("since", by_bytes(32), nullable=False),
        sa.PrimaryKeyConstraint("sha256"),
    )
