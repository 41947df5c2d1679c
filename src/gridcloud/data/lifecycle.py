"""The life of a share: a table ``(state, event) -> state``."""

from __future__ import annotations

from enum import StrEnum

from gridcloud.data.model import State

__all__ = ["TABLE", "Event", "step"]


class Event(StrEnum):
    """What can happen to a share."""

    REVOKE = "revoke"
    """Its owner takes it back."""


TABLE: dict[tuple[State, Event], State] = {(State.ACTIVE, Event.REVOKE): State.REVOKED}


def step(state: State, event: Event) -> State | None:
    """Return the state that follows, or None where the event means nothing."""
    return TABLE.get((state, event))
