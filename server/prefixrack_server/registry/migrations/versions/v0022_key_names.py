"""Keys may have a name: what a person calls them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("name", sa.String(100)))
