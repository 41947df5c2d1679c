"""Records and events as they lie in the store: frozen, bodies in plain JSON values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Entry", "Event", "Record"]


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that the store keeps. ``version`` is 1 at first and grows by one with every change."""

    kind: str
    id: str
    owner: str
    state: str
    body: dict[str, Any]
    version: int
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to be written into the story of a record."""

    type: str
    message: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story. ``seq`` orders all events of a store; ``subject`` is the id of the record."""

    seq: int
    kind: str
    subject: str
    owner: str
    at: datetime
    type: str
    message: str
    data: dict[str, Any]
