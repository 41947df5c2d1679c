"""The tables as this version of gridcloud reads and writes them; `migrations` makes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, PrimaryKeyConstraint, String, Table, Text

__all__ = ["HEAD", "REVISIONS", "events", "meta", "metadata", "records"]

REVISIONS = ("0001", "0002")
"""Every revision this version knows, oldest first. Kept here so that opening an up-to-date store needs no
import of Alembic; a test holds it against the migrations."""

HEAD = REVISIONS[-1]

metadata = MetaData()

# Times are microseconds since 1970 in UTC, bodies JSON text: the same in every database.
records = Table(
    "records",
    metadata,
    Column("kind", String(40), nullable=False),
    Column("id", String(200), nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    PrimaryKeyConstraint("kind", "id", name="pk_records"),
    Index("ix_records_state", "kind", "state"),
    Index("ix_records_owner", "kind", "owner"),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("owner", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("type", String(80), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("ix_events_subject", "subject", "seq"),
    Index("ix_events_owner", "owner", "seq"),
    sqlite_autoincrement=True,
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(80), primary_key=True),
    Column("value", Text, nullable=False),
)
