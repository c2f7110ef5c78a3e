"""What Alembic runs; the connection, and the transaction that it is in, come from `upgrade`."""

from __future__ import annotations

from alembic import context

from bascule.registry.stores import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata
)
with context.begin_transaction():
    context.run_migrations()
