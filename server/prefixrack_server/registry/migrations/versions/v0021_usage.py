"""What tenants had computed, by day and adapter; the audit log is read by tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def by_bytes(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("day", by_bytes(10)),
        sa.Column("adapter", by_bytes(127)),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "day", "adapter"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"]),
    )
    op.create_index("ix_audit_tenant_id", "audit", ["tenant", "id"])
