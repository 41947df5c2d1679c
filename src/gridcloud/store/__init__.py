"""Records and their story in one database: SQLite by default, PostgreSQL by its URL."""

from __future__ import annotations

from gridcloud.store.lock import Holder, OwnerLock
from gridcloud.store.model import Entry, Event, Record
from gridcloud.store.records import Store, open_store

__all__ = ["Entry", "Event", "Holder", "OwnerLock", "Record", "Store", "open_store"]
