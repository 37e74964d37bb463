"""Aliases with a canary, a shadow and gates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def by_bytes(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    for column in (
        sa.Column("canary_number", sa.Integer),
        sa.Column("canary_share", sa.Float),
        sa.Column("shadow_number", sa.Integer),
    ):
        op.add_column("aliases", column)
    op.create_table(
        "alias_gates",
        sa.Column("tenant", by_bytes(63)),
        sa.Column("name", by_bytes(63)),
        sa.Column("alias", by_bytes(63)),
        sa.Column("require", sa.JSON, nullable=False),
        sa.Column("updated_at", by_bytes(32), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", "alias"),
        sa.ForeignKeyConstraint(["tenant", "name"], ["adapters.tenant", "adapters.name"]),
    )
