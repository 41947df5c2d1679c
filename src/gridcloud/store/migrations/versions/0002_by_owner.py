"""Indexes by owner: a user's own page asks for one owner's records and events among everybody's."""

from __future__ import annotations

from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_records_owner", "records", ["kind", "owner"])
    op.create_index("ix_events_owner", "events", ["owner", "seq"])
