"""What one replica does for all the others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "chores",
        sa.Column("chore", sa.String(32)),
        sa.Column("begun_at", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("chore"),
    )
