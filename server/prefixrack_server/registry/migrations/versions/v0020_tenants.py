"""Tenants get a weight, quotas and patterns of names, keys get patterns, the audit log a request id and a lock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0011"

QUOTAS = ("requests_per_minute", "tokens_per_minute", "max_adapters", "max_bytes")

SQLITE_TRIGGER = """
CREATE TRIGGER audit_no_{change} BEFORE {change} ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
POSTGRES_FUNCTION = """
CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
"""
POSTGRES_TRIGGER = """
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()
"""


def by_bytes(length: int) -> sa.String:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("tenants", sa.Column("weight", sa.Float, nullable=False, server_default="1"))
    for name in QUOTAS:
        op.add_column("tenants", sa.Column(name, sa.BigInteger))
    op.add_column("tenants", sa.Column("adapters", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("tenants", sa.Column("disabled_at", by_bytes(32)))
    op.add_column("api_keys", sa.Column("adapters", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("audit", sa.Column("request_id", sa.String(128)))
    _lock_audit()


def _lock_audit() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(SQLITE_TRIGGER.format(change=change))
        return
    op.execute(POSTGRES_FUNCTION)
    op.execute(POSTGRES_TRIGGER)
