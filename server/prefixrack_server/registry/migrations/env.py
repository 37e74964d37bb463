"""Alembic's entry: runs on the connection that `upgrade` hands over, never on one of its own."""

from __future__ import annotations

from alembic import context

from prefixrack_server.registry.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
