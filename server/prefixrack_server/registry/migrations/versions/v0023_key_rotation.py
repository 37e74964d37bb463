"""A key may be another one's successor: the two are in use together until the first one is retired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("replaces", sa.String(32)))
