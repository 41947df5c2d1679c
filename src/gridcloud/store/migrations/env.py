"""Alembic's entry: migrate over the connection that `gridcloud.store.database` holds, in its transaction."""

from __future__ import annotations

from alembic import context

from gridcloud.store.tables import metadata

__all__: list[str] = []

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
